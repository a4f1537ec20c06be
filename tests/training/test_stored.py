"""Rows come out of a store as they went in, in any order."""

from __future__ import annotations

from modules.training.masking import Masked
from modules.training.stored import RowStore, StoredRows

ROWS = [
    Masked((1, 2, 3), (False, True, True)),
    Masked((), ()),
    Masked((70_000, 5), (True, False)),
]


def stored(*places: int) -> StoredRows:
    store = RowStore()
    for row in ROWS:
        store.add(row)
    return StoredRows(store, places)


def test_rows_come_out_as_they_went_in() -> None:
    assert list(stored(0, 1, 2)) == ROWS


def test_places_may_repeat_and_be_sliced() -> None:
    rows = stored(2, 0, 2)
    assert list(rows) == [ROWS[2], ROWS[0], ROWS[2]]
    assert list(rows[1:]) == [ROWS[0], ROWS[2]]
    assert rows[-1] == ROWS[2]


def test_tokens_are_counted_without_making_rows() -> None:
    rows = stored(0, 2, 2)
    assert rows.lengths == [3, 2, 2]
    assert rows.learnt == 4
