"""What a step of the batch sampler asks of a device: little, and no answer."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from modules.engine.worker.sampling.batch.row import Row
from modules.engine.worker.sampling.batch.sampler import BatchSampler
from tests.engine.batch_sampler_cases import SETTINGS, TEXT, logits_of, sampler

CPU = torch.device("cpu")
VOCAB = 4099

ASKING = {
    "item",
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "_unique2",
    "equal",
    "is_nonzero",
}
"""Operators whose result the host has to wait for."""

FREE = {"view", "_unsafe_view", "slice", "select", "unsqueeze", "squeeze", "expand", "alias",
        "unfold", "detach", "as_strided", "empty", "empty_like", "split", "lift_fresh",
        "detach_", "reshape"}  # fmt: skip
"""Operators that launch nothing."""


class Launches(TorchDispatchMode):
    """Notes the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.names[name] += 1
        if name == "index":
            indices = [index for index in args[1] if index is not None]
            assert all(index.dtype is not torch.bool for index in indices), "waits for a mask"
        return func(*args, **(kwargs or {}))

    @property
    def count(self) -> int:
        return sum(count for name, count in self.names.items() if name not in FREE)


def step(batch: BatchSampler, rows: list[Row]) -> Launches:
    """The second step of a batch, since the first one makes a plan."""
    logits = logits_of(len(rows), VOCAB)
    batch.sample(logits, rows)
    with Launches() as launches:
        batch.sample(logits, rows)
    return launches


@pytest.mark.parametrize("name", SETTINGS)
def test_no_step_waits_for_the_device(name: str) -> None:
    batch = BatchSampler(VOCAB, CPU)
    with Launches() as first:
        rows = [batch.begin(sampler(**SETTINGS[name]), TEXT) for _ in range(2)]
        batch.sample(logits_of(2, VOCAB), rows)
    assert not first.names.keys() & ASKING
    assert not step(batch, rows).names.keys() & ASKING


def test_an_operator_that_waits_would_be_noticed() -> None:
    with torch.inference_mode(), Launches() as launches:
        torch.ones(3).sum().item()
    assert launches.names.keys() & ASKING


@pytest.mark.parametrize(
    ("name", "most"),
    [("greedy", 4), ("neutral", 25), ("the defaults", 39), ("top p", 38), ("min p", 30)],
)
def test_a_step_of_sixteen_rows_is_some_tens_of_launches(name: str, most: int) -> None:
    batch = BatchSampler(VOCAB, CPU)
    rows = [batch.begin(sampler(seed, **SETTINGS[name]), TEXT) for seed in range(16)]
    launches = step(batch, rows)
    assert launches.count <= most, launches.names
    alone = BatchSampler(VOCAB, CPU)
    one = step(alone, [alone.begin(sampler(**SETTINGS[name]), TEXT)])
    assert one.count == launches.count


def test_sixteen_kinds_of_requests_share_their_launches() -> None:
    batch = BatchSampler(VOCAB, CPU)
    cases = [{"temperature": 0.5 + 0.1 * i, "min_p": 0.01 * i} for i in range(8)]
    cases += [{"top_k": 5 + i, "top_p": 0.8, "presence_penalty": 0.1 * i} for i in range(8)]
    launches = step(batch, [batch.begin(sampler(**some), TEXT) for some in cases])
    assert launches.count < 75, launches.names
