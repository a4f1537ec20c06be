"""What is captured, and with which inputs; the graphs themselves are for a card."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from modules.engine.worker.llama import graphs
from modules.engine.worker.llama.batch import Row, RowBatch
from modules.engine.worker.llama.blocks import BlockPool
from modules.engine.worker.llama.graphs import DecodeGraphs

CPU = torch.device("cpu")


class Recorded:
    """Computes where a graph would be captured, and again where it would be replayed."""

    def __init__(self, batch: RowBatch, step: Any, pool: object, stream: Any) -> None:
        self.graph = SimpleNamespace(pool=lambda: None)
        self.replay = lambda: step(batch)
        self.logits = step(batch)


@pytest.fixture
def without_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    event = SimpleNamespace(synchronize=lambda: None, record=lambda: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(graphs, "_Graph", Recorded)


def test_a_capture_between_steps_writes_into_no_slot(without_a_card: None) -> None:
    """The slots of the step before may be those of a reply that goes on, or of another by now."""
    made = DecodeGraphs(CPU, blocks=4)
    pool = BlockPool(4)
    table, _ = pool.start([1, 2, 3], ())
    pool.grow(table, 3)
    seen: list[tuple[list[int], list[int]]] = []

    def step(batch: RowBatch) -> Tensor:
        seen.append((batch.slots.tolist(), batch.lengths.tolist()))
        return torch.zeros(len(batch.tokens), 5)

    made.run([Row(7, 2, table)], (), lambda: step)
    assert seen[-1] == ([Row(7, 2, table).slot], [3])
    made.capture([1, 2], "another set of LoRAs", step)
    assert seen[-2:] == [([-1, -1], [0, 0]), ([-1], [0])]
