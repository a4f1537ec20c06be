"""Samplers that look at what was said or drawn before, by examples worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from modules.engine.params import SamplingParams
from modules.engine.worker.sampler import Sampler
from modules.engine.worker.sampling.feedback import AdaptiveP, MirostatTwo

FLAT = torch.zeros(10)


def sampler(eos: tuple[int, ...] = (), **changes: Any) -> Sampler:
    def tokens_of(text: str) -> list[int]:
        return [9] if text == "a\n" else [8] if text == "a:" else []

    return Sampler(SamplingParams.neutral(**changes), frozenset(eos), tokens_of)


def penalties(text: list[int], **changes: Any) -> dict[int, float]:
    """What DRY takes from each token that it takes something from."""
    scores = sampler(dry_multiplier=1, dry_base=2, **changes).process(FLAT, text)
    return {i: -float(score) for i, score in enumerate(scores) if score}


def left(scores: Tensor) -> list[int]:
    return [i for i, score in enumerate(scores.tolist()) if score > -math.inf]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ([1, 2, 3, 1, 2], {3: 1}),  # "1 2" is repeated, which is as long as allowed
        ([0, 1, 2, 3, 0, 1, 2], {3: 2}),
        ([5, 0, 1, 2, 3, 5, 0, 1, 2], {3: 4}),
        ([1, 2, 3, 4, 2], {}),  # "2" alone is too short
        ([1, 2, 3, 1, 2, 4, 1, 2], {3: 1, 4: 1}),
        ([7, 1, 2, 3, 1, 2, 3, 7, 1, 2], {3: 2}),  # the longer repetition counts
        ([1, 1, 1, 1], {1: 2}),
        ([1], {}),
    ],
)
def test_dry_grows_with_the_length_of_the_repetition(
    text: list[int], expected: dict[int, float]
) -> None:
    assert penalties(text) == expected


def test_dry_stops_at_a_breaker() -> None:
    assert penalties([0, 8, 1, 2, 3, 0, 8, 1, 2]) == {3: 1}  # and not 4
    assert penalties([0, 1, 2, 8, 0, 1, 2]) == {}  # a breaker itself is free
    assert penalties([0, 1, 8, 3, 0, 1, 8]) == {}
    assert penalties([0, 8, 1, 2, 3, 0, 8, 1, 2], dry_sequence_breakers=()) == {3: 4}


def test_dry_looks_no_further_back_than_the_range() -> None:
    text = [1, 2, 3, *[0, 4] * 40, 1, 2]
    assert penalties(text) == {3: 1}
    assert penalties(text, repetition_penalty_range=64) == {}


def test_dry_stays_finite_however_long_the_repetition() -> None:
    scores = sampler(dry_multiplier=5, dry_base=4).process(FLAT, [1, 2] * 500)
    assert scores.isfinite().all()
    assert scores[1] < -1e20


def test_no_phrase_is_repeated() -> None:
    text = [1, 2, 3, 1, 2, 4, 1, 2]
    assert left(sampler(no_repeat_ngram_size=3).process(FLAT, text)) == [0, 1, 2, 5, 6, 7, 8, 9]
    assert left(sampler(no_repeat_ngram_size=4).process(FLAT, text)) == list(range(10))


XTC = torch.tensor([0.4, 0.3, 0.2, 0.06, 0.04]).log()


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [(0.5, [0, 1, 2, 3, 4]), (0.35, [0, 1, 2, 3, 4]), (0.25, [1, 2, 3, 4]), (0.1, [2, 3, 4]),
     (0, [4])],
)  # fmt: skip
def test_xtc_leaves_the_least_likely_of_the_likely(threshold: float, expected: list[int]) -> None:
    scores = sampler(xtc_probability=1, xtc_threshold=threshold).process(XTC, [0])
    assert left(scores) == expected


def test_xtc_acts_as_often_as_its_probability_says() -> None:
    draw = sampler(xtc_probability=0.3, xtc_threshold=0.1, seed=4)
    acted = sum(left(draw.process(XTC, [0])) == [2, 3, 4] for _ in range(5000))
    assert abs(acted - 1500) < 4 * math.sqrt(5000 * 0.3 * 0.7)


def test_xtc_drops_neither_an_end_nor_a_line_break() -> None:
    assert len(left(sampler((1,), xtc_probability=1).process(XTC, [0]))) == 5
    assert len(left(sampler((4,), xtc_probability=1).process(XTC, [0]))) == 3
    logits = torch.tensor([-9.0] * 8 + [1.0, 2.0])  # 9 is the line break
    assert len(left(sampler(xtc_probability=1).process(logits, [0]))) == 10


def test_mirostat_corrects_its_limit_by_the_surprise_that_was_drawn() -> None:
    mirostat = MirostatTwo(tau=1.0, eta=0.5)
    p = torch.tensor([[0.5, 0.25, 0.125, 0.0625, 0.0625]])
    ids = torch.tensor([[0]])
    kept = mirostat(ids, p.log())
    assert float(mirostat.mu) == 2.0
    assert left(kept[0])[-1] <= 1  # those of 3 and 4 bits go
    mirostat(torch.tensor([[0, 1]]), p.log())  # 2 bits: 2 - 0.5 * (2 - 1)
    assert float(mirostat.mu) == pytest.approx(1.5)
    mirostat(torch.tensor([[0, 1, 0]]), p.log())  # 1 bit: as it should be
    assert float(mirostat.mu) == pytest.approx(1.5)
    mirostat(torch.tensor([[0, 1, 0, 3]]), p.log())  # 4 bits
    assert float(mirostat.mu) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("mode", [1, 2])
def test_mirostat_brings_the_surprise_to_its_target(mode: int) -> None:
    logits = -1.1 * torch.arange(1, 2001).log()  # Zipf's law, of 7.9 bits
    surprise = -logits.log_softmax(-1) / math.log(2)
    draw = sampler(mirostat_mode=mode, mirostat_tau=4, seed=8)
    ids = [0]
    for _ in range(1500):
        ids.append(draw.sample(logits, ids[-1:]))
    assert float(surprise[torch.tensor(ids[100:])].mean()) == pytest.approx(4, abs=0.25)


def test_the_adaptive_target_averages_the_probabilities_that_were_drawn() -> None:
    adaptive = AdaptiveP(target=0.3, decay=0.8)
    p = torch.tensor([[0.6, 0.3, 0.1]])
    scores = adaptive(torch.tensor([[2]]), p.log())
    assert scores[0].tolist() == pytest.approx([0.0, 5.0, 5 - 10 * (4 / 9) / (5 / 3)], abs=1e-5)
    scores = adaptive(torch.tensor([[2, 0]]), p.log())  # 0.6 drawn: 0.8 * 0.3 + 0.2 * 0.6
    assert float(adaptive.average) == pytest.approx(0.36)
    assert float(scores[0, 2]) > 5 - 10 * (4 / 9) / (5 / 3)  # the goal is 0.24 now


def test_each_request_begins_anew() -> None:
    first, second = (sampler(mirostat_mode=2, mirostat_tau=1, seed=3) for _ in range(2))
    logits = torch.tensor([3.0, 2.0, 1.0, 0.0])
    ids = [0]
    for _ in range(20):
        ids.append(first.sample(logits, ids))
    again = [0]
    for _ in range(20):
        again.append(second.sample(logits, again))
    assert ids == again
