"""The rows of a dataset file, one at a time, each with the place where it stands.

JSON (a list of objects, or an object that holds one), JSON lines, CSV and TSV, Parquet, and
plain text. What cannot be read becomes a `Problem` that names its file and row, and the rows
after it are read all the same, so that one bad row in a million costs that row alone.
"""

from __future__ import annotations

import csv
import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from modules.errors import DatasetError

__all__ = ["DATASET_SUFFIXES", "Problem", "Row", "dataset_files", "kind_of", "read_rows"]

_MAX_BYTES = 8 * 2**30
_MAX_JSON_BYTES = 2 * 2**30
"""A JSON list is read as a whole; JSON lines have no such limit."""
_MAX_LINE = 16 * 2**20
"""Characters of one row."""
_SPACE = re.compile(r"[ \t\n\r]*")
_REPAIR = "Repair it there."
_NO_UTF8 = "The row is not UTF-8."
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

    Raises DatasetError for a path that is not there, of an unknown kind, or empty, and for a
    folder that cannot be looked through.
    """
    if path.is_dir():
        try:
            found = path.rglob("*")
            files = sorted(p for p in found if p.suffix.lower() in _READERS and p.is_file())
        except OSError as error:
            raise DatasetError(
                f"{path} cannot be looked through: {error.strerror}.",
                "Name a folder of data alone.",
            ) from error
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
    except UnicodeDecodeError as error:  # only where a file is decoded as a whole
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DatasetError(
            f"{file.name} is not UTF-8 in line {line:,}, byte {error.start:,}.", "Save it as UTF-8."
        ) from error
    except OSError as error:
        raise DatasetError(f"{file.name} cannot be read: {error.strerror}.", "Check it.") from error


def _as_row(file: Path, number: int, value: Any) -> Row | Problem:
    if isinstance(value, dict):
        return Row(file.name, number, value)
    told = f"The row is {kind_of(value)}, not an object."
    return Problem(file.name, number, "no object", told)


def kind_of(value: Any) -> str:
    """What a value of JSON or Parquet is, in words, with its article."""
    if value is None:
        return "empty"
    names = {bool: "true or false", int: "a number", float: "a number", str: "a text"}
    names |= {list: "a list", dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")


# -- a reader for each kind of file -------------------------------------------------------


def _read_json(file: Path) -> Iterator[Row | Problem]:
    if file.stat().st_size > _MAX_JSON_BYTES:
        raise DatasetError(
            f"{file.name} has more than 2 GB in one list.", "Save it as JSON lines (.jsonl)."
        )
    text = file.read_text(encoding="utf-8-sig")
    start = _past_space(text, 0)
    if text[start : start + 1] == "[":
        yield from _read_list(file, text, start + 1)
        return
    try:
        content = _parsed(file, lambda: json.loads(text))
    except _ExtraDataError:  # JSON lines under the name of JSON
        yield from _read_json_lines(file)
        return
    if not isinstance(content, dict):
        raise DatasetError(f"{file.name} holds no rows.", "Make it a list of objects.")
    for number, value in enumerate(_unwrapped(content), start=1):
        yield _as_row(file, number, value)


def _read_list(file: Path, text: str, at: int) -> Iterator[Row | Problem]:
    """The values of a list that begins before `at`, one at a time: all at once need much more."""
    decode, number = json.JSONDecoder().raw_decode, 0
    at = _past_space(text, at)
    while number or text[at : at + 1] != "]":
        number += 1
        value, at = _parsed(file, functools.partial(decode, text, at), f" in row {number:,},")
        yield _as_row(file, number, value)
        at = _past_space(text, at)
        if text[at : at + 1] == "]":
            break
        if text[at : at + 1] != ",":
            where = f"behind row {number:,}, line {text.count(chr(10), 0, at) + 1:,}"
            raise DatasetError(f"{file.name} is no JSON {where}: a comma is missing.", _REPAIR)
        at = _past_space(text, at + 1)
    if text[at + 1 :].strip():
        raise DatasetError(f"{file.name} goes on behind its list.", "Make it one list.")


def _past_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


class _ExtraDataError(Exception):
    """What was read is whole, and something follows it."""


def _parsed(file: Path, parse: Callable[[], Any], where: str = "") -> Any:
    try:
        return parse()
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            raise _ExtraDataError from error
        raise DatasetError(
            f"{file.name} is no JSON{where} at line {error.lineno:,}, column {error.colno:,}: "
            f"{error.msg}.",
            _REPAIR,
        ) from error
    except RecursionError as error:
        where = where.rstrip(",")
        raise DatasetError(
            f"{file.name} is nested too deeply{where}.", "Use a list of rows."
        ) from error
    except ValueError as error:
        where = where.rstrip(",")
        raise DatasetError(
            f"{file.name} holds a number of thousands of digits{where}.", "Make it a text."
        ) from error


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
    # What is no UTF-8 comes as half surrogates, so that it costs its own row alone.
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        for number, line in _lines(lines):
            if not line.strip():
                continue
            if len(line) >= _MAX_LINE:
                yield _too_long(file, number)
                continue
            if not _is_text(line):
                yield Problem(file.name, number, "characters", _NO_UTF8)
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                told = getattr(error, "msg", "nested too deeply, or too long a number")
                yield Problem(file.name, number, "no JSON", f"The row is no JSON: {told}.")
                continue
            yield _as_row(file, number, value)


def _is_text(line: str) -> bool:
    try:
        line.encode()
    except UnicodeEncodeError:
        return False
    return True


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
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        rows = csv.reader(lines, delimiter="\t" if tabs else ",", strict=True)
        try:
            heads = next(rows, [])
            for row in rows:
                if not row:
                    continue
                if len(row) != len(heads):
                    told = f"The row has {len(row)} fields, and the head has {len(heads)}."
                    yield Problem(file.name, rows.line_num, "fields", told)
                    continue
                if not all(map(_is_text, row)):
                    yield Problem(file.name, rows.line_num, "characters", _NO_UTF8)
                    continue
                yield Row(file.name, rows.line_num, dict(zip(heads, row, strict=True)))
        except csv.Error as error:  # what follows a broken quote cannot be told apart
            told = f"From here on it is no CSV: {error}."
            yield Problem(file.name, rows.line_num, "no CSV", told)


def _read_parquet(file: Path) -> Iterator[Row | Problem]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(1_000):
            for value in batch.to_pylist():
                number += 1
                yield _as_row(file, number, value)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        # It may show bytes of the file.
        told = "".join(c if c.isprintable() else "?" for c in str(error)[:200]).rstrip(".")
        where = f" behind row {number:,}" if number else ""
        raise DatasetError(
            f"{file.name} is no Parquet{where}: {told}.", "Export it again."
        ) from error


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

DATASET_SUFFIXES = frozenset(_READERS)
"""The endings of files that are read, in lower case."""
