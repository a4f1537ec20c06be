"""The batch sampler on a card; skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from modules.engine.worker.sampling.batch.sampler import BatchSampler
from tests.engine.batch_sampler_cases import SETTINGS, TEXT, logits_of, random_changes, sampler

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA card"),
]

CASES = [*SETTINGS.values(), *(random_changes(seed) for seed in range(24))]


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Whatever waits for the card raises."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("vocab", [700, 32_000, 128_256])
def test_the_card_draws_what_the_processor_draws_and_nothing_waits(vocab: int) -> None:
    batches = [BatchSampler(vocab, torch.device(kind)) for kind in ("cpu", "cuda")]
    there, here = ([b.begin(sampler(i, **c), TEXT) for i, c in enumerate(CASES)] for b in batches)
    drawn: list[list[torch.Tensor]] = [[], []]
    steps = [logits_of(len(CASES), vocab, step) for step in range(6)]
    sent = [logits.pin_memory().to("cuda", non_blocking=True) for logits in steps]
    for logits in steps:
        drawn[0].append(batches[0].sample(logits, there)[0])
    for logits in sent:
        tokens, ok = batches[1].sample(logits, here)
        drawn[1].append(tokens)
    torch.cuda.set_sync_debug_mode("default")
    assert ok.all()
    mine, theirs = torch.stack(drawn[1]).cpu(), torch.stack(drawn[0])
    # A number may lie between what the two take for the end of a token: about once in 10^6.
    different = (mine != theirs).any(0)
    assert different.sum() <= 1, [CASES[i] for i in different.nonzero()[:, 0].tolist()]


@pytest.mark.usefixtures("no_waiting")
def test_rows_that_are_no_numbers_stop_nothing() -> None:
    batch = BatchSampler(128_256, torch.device("cuda"))
    rows = [batch.begin(sampler(i, **some), TEXT) for i, some in enumerate(CASES)]
    logits = torch.full((len(CASES), 128_256), torch.nan, device="cuda")
    tokens, ok = batch.sample(logits, rows)
    logits = torch.full((len(CASES), 128_256), -torch.inf, device="cuda")
    again, all_out = batch.sample(logits, rows)
    torch.cuda.set_sync_debug_mode("default")
    assert not ok.any()
    assert not all_out.any()
    assert not tokens.any()
    assert not again.any()


def test_a_row_draws_the_same_alone_and_among_others_on_the_card() -> None:
    vocab, steps = 32_000, 4
    logits = [logits_of(len(CASES), vocab, step).cuda() for step in range(steps)]

    def replies(places: list[int]) -> torch.Tensor:
        batch = BatchSampler(vocab, torch.device("cuda"))
        rows = [batch.begin(sampler(i, **CASES[i]), TEXT) for i in places]
        return torch.stack([batch.sample(some[places], rows)[0] for some in logits], 1).cpu()

    together = replies(list(range(len(CASES))))
    for i in range(len(CASES)):
        assert torch.equal(replies([i])[0], together[i]), CASES[i]
