"""Rows of examples packed into rows of one length, so that no token of a batch is padding.

Rows that stand in one pack do not see each other: their positions begin anew, by which
transformers' attention tells them apart, and the first token of each is not learnt, because
what stands before it belongs to another row.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from modules.training.masking import Masked

__all__ = ["IGNORED", "Pack", "Waste", "cut", "flatten", "pack", "waste"]

IGNORED = -100
"""The label of a token that is not learnt, as torch's cross entropy has it."""


@dataclass(frozen=True, slots=True)
class Pack:
    """Rows in one: `ids`, `positions` and `labels` have one entry a token."""

    ids: list[int]
    positions: list[int]
    labels: list[int]


@dataclass(frozen=True, slots=True)
class Waste:
    """What becomes of the tokens of a batch: all that are computed, and those that are real."""

    computed: int
    real: int

    @property
    def share(self) -> float:
        """Real tokens of each computed one, from 0 to 1."""
        return self.real / self.computed if self.computed else 1.0


def cut(row: Masked, length: int) -> Masked:
    """The first `length` tokens of a row."""
    return Masked(row.ids[:length], row.learnt[:length])


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Places of rows, by pack: none holds more than `capacity` tokens, and few have room left.

    Best-fit decreasing: each row, the longest first, goes where it leaves least room. Raises
    ValueError for a row that is longer than `capacity`.
    """
    packs: list[list[int]] = []
    # Room that is left and the pack's place, sorted, so that the best fit is the next above.
    rooms: list[tuple[int, int]] = []
    for place in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[place]
        if length > capacity:
            raise ValueError(f"row {place} has {length} tokens, and a pack holds {capacity}")
        fit = bisect.bisect_left(rooms, (length, -1))
        if fit < len(rooms):
            room, at = rooms.pop(fit)
        else:
            room, at = capacity, len(packs)
            packs.append([])
        packs[at].append(place)
        bisect.insort(rooms, (room - length, at))
    return packs


def flatten(rows: Sequence[Masked]) -> Pack:
    """Rows one behind another, as the trainer sees them."""
    packed = Pack([], [], [])
    for row in rows:
        packed.ids.extend(row.ids)
        packed.positions.extend(range(len(row.ids)))
        labels = [i if learnt else IGNORED for i, learnt in zip(row.ids, row.learnt, strict=True)]
        packed.labels.extend([IGNORED, *labels[1:]])
    return packed


def waste(batches: Sequence[Sequence[int]], *, padded: bool) -> Waste:
    """What batches of rows with these lengths cost: padded to the longest, or packed."""
    real = sum(map(sum, batches))
    computed = sum(len(batch) * max(batch) for batch in batches if batch) if padded else real
    return Waste(computed, real)
