"""What the next token may be: against softmax, against draws, and what it costs to ask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from modules.engine.params import SamplingParams
from modules.engine.protocol import Event, Failed, NextTokens, NextTokensFound
from modules.engine.worker.looks import chances
from modules.engine.worker.sampler import Sampler
from modules.engine.worker.scheduler import Scheduler
from modules.engine.worker.tokens import encode
from modules.loader.transformers_loader import LoadedModel
from tests.engine.helpers import PROMPT, Spy, ask, collect

Make = Callable[..., Scheduler]

LONG = " ".join(["the capital of france is paris and rome"] * 6)
DRAWN = {"do_sample": True}


def look(id: str = "a", asker: str = "", count: int = 20, **options: Any) -> NextTokens:  # noqa: A002
    return NextTokens(ask(id, **options), count, asker)


def served(scheduler: Scheduler) -> list[Event]:
    events: list[Event] = []
    while scheduler.has_work:
        events += scheduler.step()
    return events


def found(scheduler: Scheduler, question: NextTokens) -> NextTokensFound:
    scheduler.look(question)
    (answer,) = served(scheduler)
    assert isinstance(answer, NextTokensFound), answer
    return answer


def failed(events: list[Event]) -> dict[str, str]:
    return {event.id: event.message for event in events if isinstance(event, Failed)}


@pytest.fixture
def logits(tiny: LoadedModel) -> NDArray[np.float64]:
    """After PROMPT, by a forward without cache, chunks or scheduler."""
    ids = torch.tensor([encode(tiny.tokenizer, PROMPT, False)])
    with torch.inference_mode():
        return tiny.model(ids).logits[0, -1].double().numpy()


@pytest.fixture
def computed(spy: Spy) -> list[int]:
    """The number of tokens of each forward."""
    return spy.computed


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


# -- the numbers ------------------------------------------------------------------------


def test_neutral_parameters_show_the_models_own_distribution(
    make_scheduler: Make, logits: NDArray[np.float64], tiny: LoadedModel
) -> None:
    answer = found(make_scheduler(), look(**DRAWN))
    expected = softmax(logits)
    assert [t.id for t in answer.tokens] == list(np.argsort(-expected)[:20])
    for token in answer.tokens:
        assert token.before == pytest.approx(expected[token.id], rel=1e-3)
        assert token.after == token.before
    assert answer.kept == answer.vocabulary == len(expected)
    assert answer.prompt_tokens == len(encode(tiny.tokenizer, PROMPT, False))


def test_temperature_and_a_cut_off_are_those_of_the_formula(
    make_scheduler: Make, logits: NDArray[np.float64]
) -> None:
    answer = found(make_scheduler(), look(**DRAWN, temperature=2.5, top_k=7))
    expected = softmax(np.where(logits >= np.sort(logits)[-7], logits / 2.5, -np.inf))
    assert answer.kept == 7
    for token in answer.tokens:
        assert token.after == pytest.approx(expected[token.id], rel=1e-3)
    assert sum(token.after for token in answer.tokens) == pytest.approx(1)


def test_greedy_choice_is_one_token_with_certainty(make_scheduler: Make) -> None:
    answer = found(make_scheduler(), look(temperature=0))
    assert [token.after for token in answer.tokens] == [1.0] + [0.0] * 19
    assert answer.kept == 1


def test_a_token_that_only_the_parameters_make_likely_is_shown(make_scheduler: Make) -> None:
    scheduler = make_scheduler()
    unlikely = found(scheduler, look(**DRAWN, count=100)).tokens[-1]
    answer = found(scheduler, look(**DRAWN, count=5, logit_bias=[f"{unlikely.id}:60"]))
    token = next(token for token in answer.tokens if token.id == unlikely.id)
    assert token.before == unlikely.before
    assert token.after > 0.99


@pytest.mark.parametrize(
    "changes",
    [
        {"xtc_probability": 0.4, "xtc_threshold": 0.1, "temperature": 1.3, "top_p": 0.95,
         "repetition_penalty": 1.3, "frequency_penalty": 0.5, "dry_multiplier": 0.8},
        {"mirostat_mode": 2, "mirostat_tau": 1.2, "mirostat_eta": 0.5},
        {"adaptive_target": 0.3, "min_p": 0.02, "temperature_last": True, "temperature": 0.8},
    ],
)  # fmt: skip
def test_the_chances_are_the_frequencies_of_first_draws(changes: dict[str, Any]) -> None:
    scores = torch.tensor([2.0, 1.6, 1.2, 0.5, 0.0, -1.0, -2.0, -4.0])
    prompt, draws = [1, 2, 5, 1, 2], 3000
    params = SamplingParams.neutral(**changes)
    after, possible = chances(Sampler(params, frozenset({7})), scores, prompt)
    samplers = (Sampler(params.replace(seed=seed), frozenset({7})) for seed in range(draws))
    drawn = Counter(sampler.sample(scores, prompt) for sampler in samplers)
    assert float(after.sum()) == pytest.approx(1)
    for token, p in enumerate(after.tolist()):
        spread = 4 * np.sqrt(p * (1 - p) / draws)
        assert drawn[token] / draws == pytest.approx(p, abs=spread + 1e-9)
        assert bool(possible[token]) == (p > 0)


def test_logits_that_are_no_numbers_are_a_sentence(make_scheduler: Make, spy: Spy) -> None:
    def broken(*_: object) -> torch.Tensor:
        return torch.full((320,), torch.nan)

    spy.prefill = broken  # type: ignore[method-assign]
    scheduler = make_scheduler()
    scheduler.look(look())
    assert "not finite" in failed(served(scheduler))["a"]


def test_the_number_of_tokens_has_bounds(make_scheduler: Make) -> None:
    scheduler = make_scheduler()
    assert len(found(scheduler, look(count=10**9)).tokens) == 100
    assert len(found(scheduler, look(count=-5)).tokens) == 1


# -- the cost ---------------------------------------------------------------------------


def test_another_knob_computes_nothing(make_scheduler: Make, computed: list[int]) -> None:
    scheduler = make_scheduler()
    first = found(scheduler, look(**DRAWN))
    computed.clear()
    second = found(scheduler, look(**DRAWN, temperature=0.5))
    assert computed == []
    assert second.tokens[0].before == first.tokens[0].before
    assert second.tokens[0].after > first.tokens[0].after


def test_a_longer_prompt_computes_what_was_added(
    make_scheduler: Make, computed: list[int], tiny: LoadedModel, spy: Spy
) -> None:
    scheduler = make_scheduler()
    known = found(scheduler, look(prompt=LONG)).prompt_tokens
    computed.clear()
    found(scheduler, look(prompt=LONG + " and rome"))
    added = len(encode(tiny.tokenizer, " and rome", False))
    assert sum(computed) <= 1 + known - spy.shared(known) + added


def test_the_reply_that_follows_takes_the_prompt_over(make_scheduler: Make, spy: Spy) -> None:
    scheduler = make_scheduler()
    found(scheduler, look(prompt=LONG))
    scheduler.add(ask(prompt=LONG))
    usage = served(scheduler)[-1].usage  # type: ignore[union-attr]
    assert usage.cached_tokens == spy.shared(usage.prompt_tokens - 1) > 30


def test_a_reply_streams_on_while_a_long_prompt_is_looked_at(make_scheduler: Make) -> None:
    scheduler, replies = make_scheduler(prefill_chunk=4), {}
    scheduler.add(ask("reply", "is", ban_eos_token=True, max_new_tokens=30))
    scheduler.step()
    scheduler.look(look("look", prompt=LONG))
    for _ in range(8):
        collect(replies, scheduler.step())
    assert replies["reply"].tokens == 8
    assert "look" not in replies


def test_a_newer_question_takes_the_place_of_its_askers_older(make_scheduler: Make) -> None:
    scheduler = make_scheduler(prefill_chunk=4)
    scheduler.look(look("other", asker="someone", prompt=LONG + " paris"))
    scheduler.look(look("old", asker="me", prompt=LONG))
    scheduler.step()
    scheduler.look(look("new", asker="me"))
    events = served(scheduler)
    assert failed(events) == {"old": "A newer question came."}
    answered = {event.id for event in events if isinstance(event, NextTokensFound)}
    assert answered == {"other", "new"}


def test_a_cancelled_question_is_computed_no_further(make_scheduler: Make) -> None:
    scheduler = make_scheduler(prefill_chunk=4)
    scheduler.look(look(prompt=LONG))
    scheduler.step()
    scheduler.cancel("a")
    served(scheduler)
    assert not scheduler.has_work


def test_a_prompt_that_fills_the_context_is_refused(make_scheduler: Make) -> None:
    scheduler = make_scheduler(context_length=30)
    scheduler.look(look(prompt=LONG))
    (refused,) = served(scheduler)
    assert isinstance(refused, Failed)
    assert (refused.kind, "context holds 30" in refused.message) == ("PromptTooLongError", True)


def test_logits_are_forgotten_when_a_lora_leaves(make_scheduler: Make, computed: list[int]) -> None:
    scheduler = make_scheduler()
    found(scheduler, look())
    scheduler._drop_adapter("none", "was removed")
    computed.clear()
    found(scheduler, look())
    assert len(computed) == 1
