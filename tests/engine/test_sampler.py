"""The distribution that tokens are drawn from."""

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


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def nucleus(p: np.ndarray, mass: float) -> np.ndarray:
    order = np.argsort(-p)
    kept = order[: int(np.searchsorted(np.cumsum(p[order]), mass)) + 1]
    return np.where(np.isin(np.arange(len(p)), kept), p, 0)


def largest(p: np.ndarray, k: int) -> np.ndarray:
    return np.where(p >= np.sort(p)[-k], p, 0)


def typical(p: np.ndarray, mass: float) -> np.ndarray:
    surprise = -np.log(p)
    order = np.argsort(np.abs(surprise - (p * surprise).sum()))
    kept = order[: int(np.searchsorted(np.cumsum(p[order]), mass)) + 1]
    return np.where(np.isin(np.arange(len(p)), kept), p, 0)


X = LOGITS.double().numpy()
EXPECTED = {
    "neutral": ({}, softmax(X)),
    "temperature": ({"temperature": 1.7}, softmax(X / 1.7)),
    "top_p": ({"top_p": 0.8}, nucleus(softmax(X), 0.8)),
    "top_k": ({"top_k": 3}, largest(softmax(X), 3)),
    "min_p": ({"min_p": 0.2}, np.where(softmax(X) >= 0.2 * softmax(X).max(), softmax(X), 0)),
    "typical_p": ({"typical_p": 0.6}, typical(softmax(X), 0.6)),
    "penalty": (
        {"repetition_penalty": 1.4},
        softmax(np.array([2 / 1.4, 1.0, 0.5, 0.0, -1.4, -3.0])),
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_draws_follow_the_distribution_that_numpy_computes(name: str) -> None:
    changes, weights = EXPECTED[name]
    expected = weights / weights.sum()
    draw = sampler(seed=1234, **changes)
    n = 20_000
    counts = np.bincount([draw.sample(LOGITS, [0, 4]) for _ in range(n)], minlength=6)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    chi2 = ((counts - n * expected)[possible] ** 2 / (n * expected[possible])).sum()
    assert chi2 < 25.7  # the 99.99th percentile of chi-squared with 5 degrees of freedom


def test_neutral_parameters_leave_the_logits_bit_for_bit() -> None:
    assert sampler().process(LOGITS, [0, 1]) is LOGITS


def test_the_extremes_of_every_knob_still_leave_a_token() -> None:
    for changes in (
        {"temperature": 1e-30},
        {"temperature": 5},
        {"top_p": 0},
        {"top_k": 200},
        {"min_p": 1},
        {"typical_p": 0},
        {"repetition_penalty": 1.5},
    ):
        assert 0 <= sampler(**changes).sample(LOGITS, [0]) < 6, changes


def test_greedy_still_obeys_the_penalty_and_the_ban() -> None:
    assert sampler(temperature=0).sample(LOGITS, []) == 0
    assert sampler(do_sample=False, top_k=1, eos=(0,), ban_eos_token=True).sample(LOGITS, []) == 1
    logits = torch.tensor([2.0, 1.9])
    assert sampler(temperature=0, repetition_penalty=1.5).sample(logits, [0]) == 1


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
