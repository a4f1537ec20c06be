"""`Place`: where in a file a value stands, and what is said when the value is wrong there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from modules.chat.database import storable
from modules.chat.store import MAX_MESSAGE_CHARS
from modules.errors import InvalidInputError

__all__ = ["Place", "shown"]

_SHOWN_CHARS = 40


@dataclass(frozen=True, slots=True)
class Place:
    """A way into a file: its name, then rows and keys. Rows are counted from 1."""

    file: str
    steps: tuple[str, ...] = ()

    def at(self, step: str) -> Place:
        """A place further in."""
        return Place(self.file, (*self.steps, step))

    def wrong(self, what: str) -> InvalidInputError:
        """The error for a file that cannot be taken because of what is here."""
        where = ", ".join([self.file, *self.steps])
        return InvalidInputError(
            f"{where}: {what}.",
            "Nothing of this file was imported; correct it and try again.",
            field="file",
        )

    # -- values, each checked ------------------------------------------------------------

    def mapping(self, value: Any) -> dict[str, Any]:
        """`value` as an object."""
        if not isinstance(value, dict):
            raise self.wrong(f"{shown(value)} stands where an object is needed")
        return value

    def rows(self, value: Any, name: str) -> Iterator[tuple[Place, Any]]:
        """Each member of a list with its place, which is called `name` and its number."""
        if not isinstance(value, list):
            raise self.wrong(f"{shown(value)} stands where a list is needed")
        return ((self.at(f"{name} {i}"), one) for i, one in enumerate(value, 1))

    def text(self, value: Any, key: str, most: int = MAX_MESSAGE_CHARS) -> str:
        """The text at `key`, as it can be stored."""
        found = value.get(key)
        if not isinstance(found, str):
            if key not in value:
                raise self.wrong(f"{key!r} is missing")
            raise self.wrong(f"at {key!r}, {shown(found)} stands where text is needed")
        if len(found) > most:
            raise self.wrong(f"{key!r} has {len(found):,} characters, and {most:,} are allowed")
        return storable(found)

    def number(self, value: Any, key: str, low: float, high: float) -> float:
        """The number at `key`, within bounds."""
        found = value.get(key)
        fits = isinstance(found, int | float) and not isinstance(found, bool)
        if not fits or not low <= found <= high:  # NaN is in no bounds
            raise self.wrong(
                f"at {key!r}, {shown(found)} is no number from {low:,.0f} to {high:,.0f}"
            )
        return float(found)


def shown(value: Any) -> str:
    """A value as JSON has it, short enough for a sentence."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value, ensure_ascii=False)
    return storable(text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…")
