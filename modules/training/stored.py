"""`StoredRows`: rows of tokens in little memory, seen in any order and any number of times.

A token takes five bytes instead of the forty and more of a Python integer in a list, so that a
million rows of three hundred tokens fit into 1.5 GB.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import overload

from modules.training.masking import Masked

__all__ = ["RowStore", "StoredRows"]


class RowStore:
    """Where rows are put, one behind another."""

    def __init__(self) -> None:
        self._ids = array("i")
        self._learnt = bytearray()
        self._ends = array("q", [0])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def add(self, row: Masked) -> None:
        """Put one more row behind the others."""
        self._ids.extend(row.ids)
        self._learnt.extend(row.learnt)
        self._ends.append(len(self._ids))

    def get(self, place: int) -> Masked:
        """The row at a place, counted from 0."""
        start, end = self._ends[place], self._ends[place + 1]
        learnt = tuple(map(bool, self._learnt[start:end]))
        return Masked(tuple(self._ids[start:end]), learnt)

    def length(self, place: int) -> int:
        """The tokens of the row at a place."""
        return self._ends[place + 1] - self._ends[place]

    def learnt(self, place: int) -> int:
        """How many tokens of the row at a place are learnt."""
        return self._learnt.count(1, self._ends[place], self._ends[place + 1])


class StoredRows(Sequence[Masked]):
    """Some rows of a store in some order; one may come several times."""

    def __init__(self, store: RowStore, places: Iterable[int]) -> None:
        self._store = store
        self._places = array("q", places)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Masked: ...
    @overload
    def __getitem__(self, index: slice) -> StoredRows: ...

    def __getitem__(self, index: int | slice) -> Masked | StoredRows:
        if isinstance(index, slice):
            return StoredRows(self._store, self._places[index])
        return self._store.get(self._places[index])

    @property
    def lengths(self) -> list[int]:
        """The tokens of each row, without making the rows."""
        return [self._store.length(place) for place in self._places]

    @property
    def learnt(self) -> int:
        """Tokens of all rows that are learnt."""
        return sum(self._store.learnt(place) for place in self._places)
