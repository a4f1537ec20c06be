"""Format files in the old manner: JSON from sets of columns to text with `%column%` in it.

    {"instruction,output": "User: %instruction%\\nAssistant: %output%"}

A row takes the entry whose columns are those that hold text in it. Of "replies", what is learnt
is the text of the last column in the entry, and all that follows it; what stands before it is
the question.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.chat.messages import Message
from modules.errors import DatasetError, InvalidNameError
from modules.paths import safe_child
from modules.training.examples import Example
from modules.training.masking import Marked
from modules.training.rows import Problem, Row

__all__ = ["FormatFile", "Formatted", "list_formats", "read_format"]

_LARGEST = 64 * 1024


@dataclass(frozen=True, slots=True)
class Formatted:
    """A row as text. `example` is the same as question and answer, for the lint."""

    example: Example
    marked: Marked


@dataclass(frozen=True, slots=True)
class _Entry:
    columns: frozenset[str]
    parts: tuple[str, ...]
    """Text and column by turns; text at both ends."""


class FormatFile:
    """What one format file makes of rows.

    Raises DatasetError for entries that are no text, name no column, or show one that they do
    not list.
    """

    def __init__(self, name: str, entries: Mapping[str, Any]) -> None:
        self.name = name
        if not entries:
            raise DatasetError(f"The format {name} is empty.", "Choose another one.")
        found = [_entry(name, keys, text) for keys, text in entries.items()]
        # The entry that shows most of a row comes first.
        self._entries = sorted(found, key=lambda entry: -len(entry.columns))

    def apply(self, row: Row) -> Formatted | Problem:
        """The text of a row, or why it fits no entry."""
        filled = {name: text for name, value in row.fields.items() if (text := _text(value))}
        entry = next((e for e in self._entries if e.columns <= filled.keys()), None)
        if entry is None:
            return self._misfit(row, filled)
        *before, last, after = entry.parts
        asked = "".join(filled[part] if i % 2 else part for i, part in enumerate(before))
        reply = filled[last] + after
        marked = Marked(asked + reply, ((len(asked), len(asked) + len(reply)),))
        said = (Message("user", asked), Message("assistant", reply))
        return Formatted(Example(row.place, said), marked)

    def _misfit(self, row: Row, filled: Mapping[str, str]) -> Problem:
        least = self._entries[-1]
        lacking = next(name for name in least.parts[1::2] if name not in filled)
        if lacking not in row.fields:
            told = f"The row has no column {lacking!r}, which the format {self.name} shows."
            return Problem(row.file, row.number, "column", told)
        kind = "empty reply" if lacking == least.parts[-2] else "empty prompt"
        return Problem(row.file, row.number, kind, f"The column {lacking!r} is empty or no text.")


def read_format(name: str, folders: Sequence[Path]) -> FormatFile:
    """The format of this name in the first of `folders` that has it.

    Raises DatasetError where there is none, or it is damaged.
    """
    bare = name.removesuffix(".json")
    try:
        files = [safe_child(folder, f"{bare}.json") for folder in folders]
    except InvalidNameError as error:
        raise DatasetError(f"{name[:60]!r} is no name of a format.", error.remedy) from error
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        known = ", ".join(list_formats(folders[-1:])) or "none"
        raise DatasetError(f"There is no format {bare}.", f"Lantern has {known}.")
    if file.stat().st_size > _LARGEST:
        raise DatasetError(f"{file.name} has more than 64 KB.", "Choose a format file.")
    try:
        entries = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"The format {file.name} is no JSON.", "Repair it.") from error
    if not isinstance(entries, dict):
        raise DatasetError(f"The format {file.name} is no JSON object.", "Repair it.")
    return FormatFile(bare, entries)


def list_formats(folders: Sequence[Path]) -> list[str]:
    """The names of the format files in folders that hold nothing else."""
    return sorted({file.stem for folder in folders for file in folder.glob("*.json")})


def _entry(name: str, keys: str, text: Any) -> _Entry:
    columns = frozenset(key.strip() for key in keys.split(",") if key.strip())
    if not isinstance(text, str) or not columns:
        raise DatasetError(f"The format {name} has an entry without text.", "Repair it.")
    # Split in one go, so that a text that holds "%output%" itself is left as it is.
    pattern = "|".join(re.escape(column) for column in sorted(columns, key=len, reverse=True))
    parts = tuple(re.split(f"%({pattern})%", text))
    missing = columns - set(parts[1::2])
    if missing:
        raise DatasetError(
            f"The format {name} does not show %{sorted(missing)[0]}% for rows of {keys}.",
            "Add it to the text, or take the column out of the list.",
        )
    return _Entry(columns, parts)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value if value.strip() else ""
    return str(value) if isinstance(value, int | float) else ""
