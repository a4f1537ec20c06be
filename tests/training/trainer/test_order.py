"""Which rows each step learns."""

from __future__ import annotations

import pytest

from modules.training.trainer.batches import Batching, Order

LENGTHS = [3 + i * 7 % 29 for i in range(50)]


def order(batching: Batching = "packed", size: int = 4, seed: int = 0) -> Order:
    return Order(LENGTHS, batching, cutoff=32, size=size, seed=seed)


@pytest.mark.parametrize("batching", ["packed", "sorted", "padded"])
def test_every_row_is_seen_once_an_epoch(batching: Batching) -> None:
    made = order(batching)
    for epoch in range(3):
        first = epoch * made.steps_per_epoch
        steps = range(first, first + made.steps_per_epoch)
        seen = [i for s in steps for part in made.micro_batches(s, 2) for i in part]
        assert sorted(seen) == list(range(50))


def test_the_order_is_another_in_every_epoch_and_for_every_seed() -> None:
    made = order()
    first = made.micro_batches(0, 4)
    assert made.micro_batches(made.steps_per_epoch, 4) != first
    assert order(seed=1).micro_batches(0, 4) != first
    assert made.micro_batches(0, 4) == first


def test_the_micro_batch_changes_no_step() -> None:
    made = order()
    for size in (1, 2, 3, 4):
        (whole,) = made.micro_batches(1, 4)
        assert [row for part in made.micro_batches(1, size) for row in part] == whole


def test_no_pack_is_longer_than_the_length() -> None:
    made = order()
    packs = [p for s in range(made.steps_per_epoch) for p in made.micro_batches(s, 1)]
    assert max(sum(LENGTHS[i] for i in p) for p in packs) <= 32
    assert made.waste(1).share == 1.0


def test_sorted_batches_waste_less_than_padded_ones() -> None:
    assert order("sorted").waste(4).share > order("padded").waste(4).share


def test_the_steps_of_a_run_follow_from_its_epochs() -> None:
    made = order()
    assert made.total_steps(2) == 2 * made.steps_per_epoch
    assert made.total_steps(0.1) >= 1
    assert made.total_steps(100, most=7) == 7
