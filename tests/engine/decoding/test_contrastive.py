"""Contrastive search, against a reference that computes the whole text for each candidate."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.engine.decoding.conftest import Lab
from tests.engine.helpers import ENDLESS, Reply, ask, collect

MakeLab = Callable[[int], Lab]
LONG = " ".join(["the capital of france is paris and rome"] * 6)


def states_and_logits(model: LlamaForCausalLM, ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        output = model(input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False)
    return output.hidden_states[-1][0], output.logits[0, -1].clone()


def plain_reference(
    lab: Lab, ids: list[int], k: int, alpha: float, count: int, bans: list[int]
) -> list[int]:
    """The paper's formula, without a cache."""
    ids, reply = list(ids), []
    while len(reply) < count:
        _, logits = states_and_logits(lab.model, ids)
        logits[bans] = -torch.inf
        probabilities, tokens = logits.softmax(-1).topk(k)
        scores = []
        for probability, token in zip(probabilities.tolist(), tokens.tolist(), strict=True):
            states, _ = states_and_logits(lab.model, [*ids, token])
            similarity = torch.cosine_similarity(states[-1:], states[:-1]).max()
            scores.append((1 - alpha) * probability - alpha * float(similarity))
        token = int(tokens[scores.index(max(scores))])
        if token == 2:
            break
        ids.append(token)
        reply.append(token)
    return reply


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("k", "alpha"), [(2, 0.3), (4, 0.6), (8, 1.0), (5, 3.0)])
def test_it_equals_the_plain_reference(make_lab: MakeLab, seed: int, k: int, alpha: float) -> None:
    lab = make_lab(seed)
    reply = lab.reply(ask(top_k=k, penalty_alpha=alpha, max_new_tokens=15), prefill_chunk=3)
    assert reply == plain_reference(lab, lab.ids(), k, alpha, 15, [])
    assert lab.held() == set()


def test_it_differs_from_greedy(lab: Lab) -> None:
    greedy = lab.reply(ask("greedy", max_new_tokens=30))
    assert lab.reply(ask(top_k=4, penalty_alpha=0.6, max_new_tokens=30)) != greedy


def test_what_is_banned_is_no_candidate(lab: Lab) -> None:
    bans = list(range(3, 300))
    request = ask(top_k=20, penalty_alpha=0.9, custom_token_bans=tuple(map(str, bans[:250])))
    reply = lab.reply(request)
    assert not set(reply) & set(bans[:250])
    assert reply == plain_reference(lab, lab.ids(), 20, 0.9, 12, bans[:250])


def test_the_end_token_ends_it_and_the_kept_cache_serves_the_next(lab: Lab) -> None:
    options = {"top_k": 2, "penalty_alpha": 0.1, "logit_bias": ("2:100",)}
    assert lab.run(ask("ended", LONG, **options))["ended"].finished.reason == "stop"
    usage = lab.run(ask("next", LONG))["next"].finished.usage
    assert usage.cached_tokens == lab.spy.shared(usage.prompt_tokens - 1)
    assert lab.spy.replies["next"] == lab.generate(lab.ids(LONG), max_new_tokens=12)


def test_its_own_prompt_is_always_computed(lab: Lab) -> None:
    options = {"top_k": 4, "penalty_alpha": 0.6}
    first = lab.reply(ask("first", LONG, **options))
    assert lab.run(ask("again", LONG, **options))["again"].finished.usage.cached_tokens == 0
    assert lab.spy.replies["again"] == first


def test_a_cancel_frees_it(lab: Lab) -> None:
    scheduler, replies = lab.scheduler(), dict[str, Reply]()
    scheduler.add(ask(top_k=4, penalty_alpha=0.6, **ENDLESS))
    for _ in range(5):
        collect(replies, scheduler.step())
    scheduler.cancel("a")
    assert lab.held() == set()
    assert lab.reply(ask("next")) == lab.generate(lab.ids(), max_new_tokens=12)
