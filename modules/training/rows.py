"""The rows of a dataset file, one at a time, each with the place where it stands.

JSON (a list of objects, or an object that holds one), JSON lines, CSV and TSV, Parquet, and
plain text. What cannot be read becomes a `Problem` that names its file and row, and the rows
after it are read all the same, so that one bad row in a million costs that row alone.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from modules.errors import DatasetError

__all__ = ["Problem", "Row", "dataset_files", "read_rows"]

_MAX_BYTES = 8 * 2**30
_MAX_JSON_BYTES = 2 * 2**30
"""A JSON list is read as a whole; JSON lines have no such limit."""
_MAX_LINE = 16 * 2**20
"""Characters of one row."""
_WRAPPERS = ("data", "train", "rows", "examples", "conversations")
"""Keys below which a JSON object holds its rows."""


@dataclass(frozen=True, slots=True)
class Row:
    """The fields of one row. `number` counts from 1; in text formats it is the line."""

    file: str
    number: int
    fields: Mapping[str, Any]

    @property
    def place(self) -> str:
        """Where it stands, as sentences name it."""
        return f"{self.file}, row {self.number:,}"


@dataclass(frozen=True, slots=True)
class Problem:
    """A row that is left out, and why: `kind` in a word, `sentence` for people."""

    file: str
    number: int
    kind: str
    sentence: str


def dataset_files(path: Path) -> list[Path]:
    """The files of a dataset: `path` itself, or all that can be read below it, by name.

    Raises DatasetError for a path that is not there, of an unknown kind, or empty.
    """
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in _READERS and p.is_file())
        if not files:
            kinds = ", ".join(sorted(_READERS))
            raise DatasetError(f"{path.name} holds no dataset.", f"Put files of {kinds} into it.")
        return files
    if not path.is_file():
        raise DatasetError(f"There is no dataset {path}.", "Check the name, or choose another.")
    if path.suffix.lower() not in _READERS:
        kinds = ", ".join(sorted(_READERS))
        raise DatasetError(f"{path.name} is no dataset that Lantern reads.", f"Use {kinds}.")
    return [path]


def read_rows(file: Path) -> Iterator[Row | Problem]:
    """The rows of one file of `dataset_files`, and what could not be read.

    A text file is one row, `{"text": ...}`. Raises DatasetError where nothing of it can be
    read: it is empty, not text, too large, or no JSON from some line on.
    """
    size = file.stat().st_size
    if not size:
        raise DatasetError(f"{file.name} is empty.", "Choose another file.")
    if size > _MAX_BYTES:
        raise DatasetError(
            f"{file.name} has {size / 2**30:.1f} GB; a dataset file may have 8 GB.", "Split it."
        )
    try:
        yield from _READERS[file.suffix.lower()](file)
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{file.name} is not UTF-8 from byte {error.start:,} on.", "Save it as UTF-8."
        ) from error
    except OSError as error:
        raise DatasetError(f"{file.name} cannot be read: {error.strerror}.", "Check it.") from error


def _as_row(file: Path, number: int, value: Any) -> Row | Problem:
    if isinstance(value, dict):
        return Row(file.name, number, value)
    kind = type(value).__name__
    return Problem(file.name, number, "no object", f"The row is a {kind}, not an object.")


# -- a reader for each kind of file -------------------------------------------------------


def _read_json(file: Path) -> Iterator[Row | Problem]:
    if file.stat().st_size > _MAX_JSON_BYTES:
        raise DatasetError(
            f"{file.name} has more than 2 GB in one list.", "Save it as JSON lines (.jsonl)."
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # JSON lines under the name of JSON
            yield from _read_json_lines(file)
            return
        raise DatasetError(
            f"{file.name} is no JSON at line {error.lineno:,}, column {error.colno:,}: "
            f"{error.msg}.",
            "Repair it there.",
        ) from error
    except RecursionError as error:
        raise DatasetError(f"{file.name} is nested too deeply.", "Use a list of rows.") from error
    if isinstance(content, dict):
        content = _unwrapped(content)
    if not isinstance(content, list):
        raise DatasetError(f"{file.name} holds no rows.", "Make it a list of objects.")
    for number, value in enumerate(content, start=1):
        yield _as_row(file, number, value)


def _unwrapped(content: dict[str, Any]) -> list[Any]:
    """The rows in an object; one that is itself a row, as a lone conversation, is the only."""
    for key in _WRAPPERS:
        rows = content.get(key)
        if isinstance(rows, list) and not _are_turns(rows):
            return rows
    return [content]


def _are_turns(values: list[Any]) -> bool:
    return all(isinstance(value, dict) and {"from", "role"} & value.keys() for value in values)


def _read_json_lines(file: Path) -> Iterator[Row | Problem]:
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in _lines(lines):
            if not line.strip():
                continue
            if len(line) >= _MAX_LINE:
                yield _too_long(file, number)
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                told = getattr(error, "msg", "nested too deeply")
                yield Problem(file.name, number, "no JSON", f"The row is no JSON: {told}.")
                continue
            yield _as_row(file, number, value)


def _lines(lines: TextIO) -> Iterator[tuple[int, str]]:
    """Numbered lines; of one that is too long, the rest is skipped and never held."""
    number = 0
    while line := lines.readline(_MAX_LINE):
        number += 1
        yield number, line
        while len(line) == _MAX_LINE and not line.endswith("\n"):
            line = lines.readline(_MAX_LINE)


def _read_csv(file: Path) -> Iterator[Row | Problem]:
    csv.field_size_limit(_MAX_LINE)
    tabs = file.suffix.lower() == ".tsv"
    with file.open(encoding="utf-8-sig", newline="") as lines:
        rows = csv.reader(lines, delimiter="\t" if tabs else ",", strict=True)
        try:
            heads = next(rows)
            for row in rows:
                if not row:
                    continue
                if len(row) != len(heads):
                    told = f"The row has {len(row)} fields, and the head has {len(heads)}."
                    yield Problem(file.name, rows.line_num, "fields", told)
                    continue
                yield Row(file.name, rows.line_num, dict(zip(heads, row, strict=True)))
        except csv.Error as error:  # what follows a broken quote cannot be told apart
            told = f"From here on it is no CSV: {error}."
            yield Problem(file.name, rows.line_num, "no CSV", told)


def _read_parquet(file: Path) -> Iterator[Row | Problem]:
    import pyarrow
    import pyarrow.parquet

    try:
        number = 0
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(1_000):
            for value in batch.to_pylist():
                number += 1
                yield _as_row(file, number, value)
    except (pyarrow.ArrowException, ValueError) as error:
        told = str(error).splitlines()[0][:200]
        raise DatasetError(f"{file.name} is no Parquet: {told}.", "Export it again.") from error


def _read_text(file: Path) -> Iterator[Row | Problem]:
    yield Row(file.name, 1, {"text": file.read_text(encoding="utf-8-sig")})


def _too_long(file: Path, number: int) -> Problem:
    told = f"The row has more than {_MAX_LINE / 1e6:.0f} million characters."
    return Problem(file.name, number, "too long", told)


_READERS: Mapping[str, Callable[[Path], Iterator[Row | Problem]]] = {
    ".json": _read_json,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
    ".txt": _read_text,
    ".md": _read_text,
}
