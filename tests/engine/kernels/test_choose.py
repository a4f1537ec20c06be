"""Drawing by one kernel against the steps that it stands for; skipped where there is no card."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from modules.engine.params import SamplingParams
from modules.engine.worker.sampler import Sampler
from modules.engine.worker.sampling.batch.row import Row
from modules.engine.worker.sampling.batch.sampler import BatchSampler

card = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA card")

SERVED: list[dict[str, Any]] = [
    {"temperature": 0.7, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.15},
    {"top_k": 1},
    {"top_k": 200, "temperature": 1.5},
    {"top_k": 40, "min_p": 0.05},
    {"top_k": 200, "top_p": 0.5, "presence_penalty": 1.0, "frequency_penalty": 0.5},
    {"top_k": 50, "ban_eos_token": True, "custom_token_bans": ("5", "6"), "min_length": 3},
    {"top_k": 100, "top_p": 0.95, "repetition_penalty": 1.3, "repetition_penalty_range": 64},
]
PROMPT = list(range(10, 300))


def begin(batch: BatchSampler, count: int, settings: list[dict[str, Any]]) -> list[Row]:
    made = [SamplingParams.neutral(seed=i, **settings[i % len(settings)]) for i in range(count)]
    return [batch.begin(Sampler(params, frozenset({2})), PROMPT) for params in made]


def both(vocab: int, count: int) -> tuple[tuple[BatchSampler, list[Row]], ...]:
    """The kernel, and the steps without it."""
    with_kernel, without = (BatchSampler(vocab, torch.device("cuda")) for _ in range(2))
    assert with_kernel._chooser is not None
    without._chooser = None
    return tuple((batch, begin(batch, count, SERVED)) for batch in (with_kernel, without))


@pytest.mark.gpu
@card
@pytest.mark.parametrize("vocab", [300, 700, 32_000, 128_256])
def test_the_kernel_draws_what_the_steps_draw(vocab: int) -> None:
    pairs = both(vocab, 14)
    made = torch.Generator().manual_seed(vocab)
    different = 0
    for step in range(30):
        logits = (torch.randn(14, vocab, generator=made) * (1 + step % 5)).cuda()
        if step % 4 == 3:
            logits[:, 20:] = -torch.inf  # fewer are possible than top k would keep
        mine, theirs = (batch.sample(logits, rows)[0] for batch, rows in pairs)
        different += int((mine != theirs).sum())
        # A number may lie between what the two take for the end of a token. What follows such a
        # draw has another history, so the rows begin anew.
        if different:
            pairs = both(vocab, 14)
    assert different <= 1


@pytest.mark.gpu
@card
@pytest.mark.parametrize("vocab", [700, 128_256])
def test_more_equal_scores_than_there_is_room_for_leave_a_token_all_the_same(vocab: int) -> None:
    batch = BatchSampler(vocab, torch.device("cuda"))
    rows = begin(batch, 14, SERVED)
    logits = torch.zeros(14, vocab, device="cuda")
    logits[:, 200:] = -5
    for _ in range(5):
        tokens, ok = batch.sample(logits, rows)
        assert ok.all()
        assert (tokens < 200).all()
        again, _ = batch.sample(torch.zeros_like(logits), rows)
        assert (again < vocab).all()


@pytest.mark.gpu
@card
@pytest.mark.parametrize(
    "other",
    [
        {"top_k": 0, "min_p": 0.1},
        {"top_p": 0.9},
        {"top_k": 20, "typical_p": 0.5},
        {"top_k": 20, "temperature": 0.7, "top_p": 0.9, "temperature_last": True},
        {"top_k": 20, "custom_token_bans": tuple(str(i) for i in range(40))},
    ],
)
def test_what_the_kernel_has_not_goes_through_the_steps(other: dict[str, Any]) -> None:
    batch = BatchSampler(700, torch.device("cuda"))
    rows = begin(batch, 1, [other])
    assert [group.fused for group in batch._planned_for(rows).groups] == [None]
