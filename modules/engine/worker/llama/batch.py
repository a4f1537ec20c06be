"""`RowBatch`: the rows of a decode step, and how attention finds their keys.

A row is one token of one sequence. Drafts are several rows of one sequence with growing lengths,
for each row sees what the rows before it have written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modules.engine.worker.llama.blocks import BLOCK, Table

__all__ = ["Row", "RowBatch"]


@dataclass(frozen=True, slots=True)
class Row:
    """A token id, its position in the sequence, and the table that has room for it.

    A token that only the device knows yet is -1.
    """

    token: int
    position: int
    table: Table

    @property
    def slot(self) -> int:
        """Where its key and value go: block * BLOCK + offset."""
        return self.table.blocks[self.position // BLOCK] * BLOCK + self.position % BLOCK


@dataclass(frozen=True, slots=True, eq=False)
class RowBatch:
    """The rows as tensors: token ids int64 [rows], and int32 positions, slots, lengths [rows] and
    tables [rows, blocks]. Padding has slot -1 and length 0."""

    tokens: Tensor
    positions: Tensor
    slots: Tensor
    lengths: Tensor
    tables: Tensor

    @classmethod
    def of(cls, rows: Sequence[Row], device: torch.device) -> RowBatch:
        """A new batch, its tables as wide as the longest."""
        wide = max(len(row.table.blocks) for row in rows)
        tables = [row.table.blocks + [0] * (wide - len(row.table.blocks)) for row in rows]
        numbers = [
            [max(row.token, 0) for row in rows],
            [row.position for row in rows],
            [row.slot for row in rows],
            [row.position + 1 for row in rows],
        ]
        packed = torch.tensor(numbers, dtype=torch.int32)
        placed = torch.tensor(tables, dtype=torch.int32)
        if device.type == "cuda":
            packed, placed = packed.pin_memory(), placed.pin_memory()
        packed = packed.to(device, non_blocking=True)
        tokens, positions, slots, lengths = packed.unbind()
        return cls(tokens.long(), positions, slots, lengths, placed.to(device, non_blocking=True))
