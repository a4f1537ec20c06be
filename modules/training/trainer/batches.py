"""`Batch`: rows as the model computes them; `Order`: which rows each step learns.

The order depends on the seed and the number of the step alone, so that a run that is resumed,
or spread over several processes, learns the same rows at the same step.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from modules.training.masking import Masked
from modules.training.packing import IGNORED, Waste, flatten, pack, waste

__all__ = ["Batch", "Batching", "Order", "collate", "learnt_tokens"]

Batching = Literal["packed", "sorted", "padded"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that are computed at once: long tensors [rows, length].

    `labels` are the ids themselves, IGNORED for a token that is not learnt. A packed batch is
    one row, in which `positions` begin anew with each row of the data, and `cu_seqlens` says
    where: row i is from cu_seqlens[i] to cu_seqlens[i + 1]. Padding stands at the end of rows,
    where causal attention never looks, so that no batch needs a mask.
    """

    ids: Tensor
    positions: Tensor
    labels: Tensor
    cu_seqlens: list[int] | None
    lengths: list[int]
    """Tokens of each row of the data."""

    @property
    def real(self) -> int:
        """Tokens that are no padding."""
        return sum(self.lengths)


def learnt_tokens(rows: Sequence[Masked]) -> int:
    """Tokens whose loss counts: the first of a row has nothing before it."""
    return sum(sum(row.learnt[1:]) for row in rows)


def collate(rows: Sequence[Masked], *, packed: bool, device: torch.device) -> Batch:
    """Rows one behind another, or one below another and padded to the longest."""
    lengths = [len(row.ids) for row in rows]
    lines = [flatten(rows)] if packed else [flatten([row]) for row in rows]
    width = max(len(line.ids) for line in lines)

    def tensor(values: list[list[int]], padding: int) -> Tensor:
        padded = [line + [padding] * (width - len(line)) for line in values]
        return torch.tensor(padded, dtype=torch.long).to(device)

    bounds = [0]
    for length in lengths:
        bounds.append(bounds[-1] + length)
    return Batch(
        tensor([line.ids for line in lines], 0),
        tensor([line.positions for line in lines], 0),
        tensor([line.labels for line in lines], IGNORED),
        bounds if packed else None,
        lengths,
    )


class Order:
    """The rows of every step. `size` packs (or rows) make one step of the optimizer.

    `lengths` are the tokens of each row, none above `cutoff`.
    """

    def __init__(
        self, lengths: Sequence[int], batching: Batching, *, cutoff: int, size: int, seed: int
    ) -> None:
        self._lengths = lengths
        self._batching = batching
        self._cutoff = cutoff
        self._size = size
        self._seed = seed
        self._epoch = -1
        self._steps: list[list[list[int]]] = []
        self._enter(0)

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every row is seen once."""
        return len(self._steps)

    def waste(self, size: int) -> Waste:
        """What an epoch costs in micro batches of `size` packs (or rows)."""
        parts = [part for step in self._steps for part in _micro_batches(step, size)]
        lengths = [[self._lengths[i] for i in part] for part in parts]
        return waste(lengths, padded=self._batching != "packed")

    def tokens(self, step: int) -> int:
        """Tokens of the rows of a step, counted from 0."""
        return sum(self._lengths[i] for part in self.micro_batches(step, 1) for i in part)

    def total_steps(self, epochs: float, most: int = 0) -> int:
        """Steps of a run; `most` ends it early, 0 never."""
        steps = max(1, math.ceil(epochs * self.steps_per_epoch))
        return min(steps, most) if most else steps

    def epoch(self, step: int) -> float:
        """How often every row was seen after so many steps."""
        return step / self.steps_per_epoch

    def micro_batches(self, step: int, size: int) -> list[list[int]]:
        """The rows of a step, counted from 0, by micro batches of `size` packs (or rows)."""
        self._enter(step // self.steps_per_epoch)
        return _micro_batches(self._steps[step % self.steps_per_epoch], size)

    def _enter(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        self._epoch = epoch
        draw = random.Random(f"{self._seed}/{epoch}")  # noqa: S311 - an order, no secret
        order = list(range(len(self._lengths)))
        draw.shuffle(order)
        if self._batching == "packed":
            # Rows of one length change places in every epoch, and so the company they keep.
            packs = pack([self._lengths[i] for i in order], self._cutoff)
            units = [[order[i] for i in places] for places in packs]
            draw.shuffle(units)
        else:
            if self._batching == "sorted":
                order.sort(key=lambda i: self._lengths[i])
            units = [[i] for i in order]
        steps = [units[i : i + self._size] for i in range(0, len(units), self._size)]
        if self._batching == "sorted":
            draw.shuffle(steps)
        self._steps = steps


def _micro_batches(units: Sequence[list[int]], size: int) -> list[list[int]]:
    parts = (units[i : i + size] for i in range(0, len(units), size))
    return [[row for unit in part for row in unit] for part in parts]
