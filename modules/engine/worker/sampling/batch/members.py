"""`Members`: the rows that go through one chain, and their parameters as columns."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from modules.engine.params import SamplingParams
from modules.engine.worker.sampling.batch.row import Row
from modules.engine.worker.sampling.batch.state import State
from modules.engine.worker.sampling.batch.uploads import Uploads

__all__ = ["Members"]


class Members:
    """Rows whose steps are taken together, and the state that these work with."""

    def __init__(self, rows: list[Row], state: State) -> None:
        self.rows = rows
        self.state = state
        slots = [row.slot for row in rows]
        self.slots = self.uploads.ints(slots)
        follow = slots == list(range(slots[0], slots[0] + len(slots)))
        self._first = slots[0] if follow else None

    @property
    def uploads(self) -> Uploads:
        """The way to the device."""
        return self.state.uploads

    def column(self, name: str, value: Callable[[SamplingParams], float], neutral: float) -> Tensor:
        """`value` of the rows whose chain has `name`, `neutral` for the others: [n, 1]."""
        values = [value(row.params) if name in row.active else neutral for row in self.rows]
        return self.uploads.floats(values)[:, None]

    def active(self, name: str) -> Tensor:
        """Whether each row's chain has `name`: bool [n, 1]."""
        return self.column(name, lambda _: 1, 0) > 0

    def having(self, name: str) -> list[int]:
        """Which of the rows have `name` in their chain."""
        return [i for i, row in enumerate(self.rows) if name in row.active]

    def mask(self, name: str) -> Tensor:
        """Whether the parameter `name` of each row is about a token: bool [n, vocab]."""
        vocab = self.state.vocab
        lists = [row.tokens.get(name, []) if name in row.active else [] for row in self.rows]
        lists = [[i if i < vocab else vocab for i in ids] for ids in lists]
        table = torch.zeros((len(lists), vocab + 1), dtype=torch.bool, device=self.uploads.device)
        return table.scatter_(1, self.uploads.ragged(lists, vocab), True)[:, :vocab]

    def counts(self) -> Tensor:
        """How often each token occurred, as far as that matters: float32 [n, vocab]."""
        return self.state.counts(self.slots, self._first)
