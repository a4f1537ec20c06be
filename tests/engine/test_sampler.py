"""How one request picks its tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from modules.engine.params import SamplingParams
from modules.engine.worker.sampler import Sampler, token_logprob
from modules.errors import EngineError
from modules.loader.transformers_loader import LoadedModel

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0])


def sampler(eos: tuple[int, ...] = (), **changes: Any) -> Sampler:
    return Sampler(SamplingParams.neutral(**changes), frozenset(eos))


def test_neutral_parameters_leave_the_logits_bit_for_bit() -> None:
    assert sampler().process(LOGITS, [0, 1]) is LOGITS


def test_greedy_still_obeys_the_penalty_and_the_ban() -> None:
    assert sampler(temperature=0).sample(LOGITS, []) == 0
    assert sampler(do_sample=False, top_k=1, eos=(0,), ban_eos_token=True).sample(LOGITS, []) == 1
    logits = torch.tensor([2.0, 1.9])
    assert sampler(temperature=0, repetition_penalty=1.5).sample(logits, [0]) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"presence_penalty": 1.0},
        {"frequency_penalty": 1.0},
        {"dry_multiplier": 1.0, "dry_allowed_length": 1},
        {"no_repeat_ngram_size": 1},
        {"custom_token_bans": ["0"]},
        {"logit_bias": ["0:-9"]},
        {"encoder_repetition_penalty": 0.8},
    ],
)
def test_greedy_obeys_every_penalty(changes: dict[str, Any]) -> None:
    logits = torch.tensor([2.0, 1.9, -9.0])
    assert sampler(temperature=0).sample(logits, [0, 0]) == 0
    assert sampler(temperature=0, **changes).sample(logits, [0, 0]) == 1


def test_greedy_ignores_what_shapes_a_random_choice() -> None:
    changes = {"xtc_probability": 1, "xtc_threshold": 0.1, "mirostat_mode": 2, "tfs": 0}
    assert sampler(temperature=0, **changes).process(LOGITS, [0]) is LOGITS


def test_the_end_may_come_after_the_least_length_only() -> None:
    draw = sampler(temperature=0, min_length=2, eos=(0,))
    ids = [4]
    for _ in range(4):
        ids.append(draw.sample(LOGITS, ids))
    assert ids == [4, 1, 1, 0, 0]


def test_a_ban_of_all_tokens_is_dropped() -> None:
    assert sampler(custom_token_bans=[str(i) for i in range(6)]).sample(LOGITS, []) < 6
    everything = list(range(6))
    assert sampler(no_repeat_ngram_size=1).sample(LOGITS, everything) < 6


def test_tokens_beyond_the_vocabulary_do_no_harm() -> None:
    changes: dict[str, Any] = {
        "custom_token_bans": ["9999999"],
        "logit_bias": ["9999999:5"],
        "encoder_repetition_penalty": 1.2,
        "frequency_penalty": 1,
        "dry_multiplier": 1,
        "dry_allowed_length": 1,
        "no_repeat_ngram_size": 2,
    }
    assert sampler(**changes).sample(LOGITS, [70, 2, 70]) < 6


def test_banning_the_end_without_an_end_token_changes_nothing() -> None:
    assert torch.equal(sampler(ban_eos_token=True).process(LOGITS, []), LOGITS)


def test_the_logits_are_not_altered_in_place() -> None:
    before = LOGITS.clone()
    sampler(temperature=0.5, top_p=0.5, repetition_penalty=1.2, eos=(1,)).sample(LOGITS, [0])
    assert torch.equal(LOGITS, before)


def test_an_undrawn_seed_is_drawn_and_repeats_the_draws() -> None:
    first = sampler()
    assert first.seed >= 0
    again = sampler(seed=first.seed)
    assert [first.sample(LOGITS, []) for _ in range(50)] == [
        again.sample(LOGITS, []) for _ in range(50)
    ]


def test_a_seeded_request_does_not_depend_on_its_neighbours() -> None:
    changes: dict[str, Any] = {
        "seed": 11,
        "xtc_probability": 0.5,
        "mirostat_mode": 2,
        "adaptive_target": 0.3,
        "dry_multiplier": 1,
    }

    def reply(neighbours: int) -> list[int]:
        mine, others = sampler(**changes), [sampler(**changes | {"seed": i}) for i in range(3)]
        ids = [0]
        for step in range(60):
            for other in others[:neighbours]:
                other.sample(LOGITS.roll(step), ids)
            ids.append(mine.sample(LOGITS.roll(step), ids))
        return ids

    assert reply(0) == reply(3)
    assert len(set(reply(0))) > 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_an_error(bad: float) -> None:
    with pytest.raises(EngineError, match="not finite"):
        sampler().sample(torch.tensor([0.0, bad]), [])


def test_a_token_that_the_model_rules_out_is_no_error() -> None:
    assert sampler().sample(torch.tensor([0.0, float("-inf")]), []) == 0


def test_logprobs_are_of_the_model_and_sum_to_one(tiny: LoadedModel) -> None:
    logits = torch.linspace(-3, 3, 50)
    found = token_logprob(logits, 7, 50, tiny.tokenizer)
    assert sum(np.exp(value) for _, value in found.top) == pytest.approx(1, abs=1e-5)
    assert found.logprob == pytest.approx(float(logits.log_softmax(0)[7]))
    assert [value for _, value in found.top] == sorted((v for _, v in found.top), reverse=True)
    assert token_logprob(logits, 7, 0, tiny.tokenizer).top == ()
