"""Where the rows of a config come from: its files, found, read and told apart by their form."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modules.errors import DatasetError
from modules.training.config import DatasetSource
from modules.training.examples import COLUMNS, Example, Form, example_of, recognise
from modules.training.formats import FormatFile, read_format
from modules.training.masking import Marked
from modules.training.rows import Problem, Row, dataset_files, read_rows

__all__ = ["DataFolders", "Item", "file_hash", "read_source", "source_files"]

_RAW = (".txt", ".md")
"""Files that are cut into pieces; a text in a table is one row."""


@dataclass(frozen=True, slots=True)
class DataFolders:
    """Where the paths of a config are looked for, in this order.

    `config` is the folder of the config's file, None for one that is in no file; `datasets` is
    `user_data/datasets`; `root` is Lantern's own folder.
    """

    config: Path | None
    datasets: Path
    root: Path

    def find(self, path: str) -> Path:
        """The file or folder that a config means. Raises DatasetError."""
        roots = [folder for folder in (self.config, self.datasets, self.root) if folder]
        try:
            for folder in roots:
                if (found := folder / path).exists():
                    return found
        except (OSError, ValueError) as error:  # too long, or with a NUL
            raise DatasetError(f"{path[:60]!r} is no path.", "Name a file or folder.") from error
        raise DatasetError(
            f"There is no dataset {path[:200]!r}.",
            "Give its whole path, or put it into user_data/datasets/.",
        )

    @property
    def formats(self) -> tuple[Path, ...]:
        """Where format files lie: beside the config, with the user's data, with Lantern."""
        return (
            *((self.config,) if self.config else ()),
            self.datasets,
            self.root / "training" / "formats",
        )


@dataclass(frozen=True, slots=True)
class Item:
    """One row that can be learnt from.

    `marked` is its text where a format file made it; `raw` text is to be cut into pieces.
    """

    row: Row
    example: Example
    marked: Marked | None = None
    raw: bool = False


def source_files(source: DatasetSource, folders: DataFolders) -> list[Path]:
    """The files of one entry of `datasets`. Raises DatasetError."""
    return dataset_files(folders.find(source.path))


def file_hash(file: Path) -> str:
    """The sha256 of a file, in hexadecimal. Raises DatasetError where it cannot be read."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DatasetError(f"{file.name} cannot be read: {error.strerror}.", "Check it.") from error


def read_source(
    source: DatasetSource, file: Path, folders: DataFolders
) -> Iterator[Item | Problem]:
    """The rows of one file of a source, each by its own columns.

    Raises DatasetError for a file that cannot be read, and for columns or a format that the
    source names wrongly.
    """
    _check_columns(source)
    named = read_format(source.format, folders.formats) if source.format else None
    forms = _Forms(source)
    raw = file.suffix.lower() in _RAW
    for row in read_rows(file):
        if isinstance(row, Problem):
            yield row
        elif named is not None and not raw:
            yield _formatted(row, named)
        else:
            example = forms.example_of(row)
            yield example if isinstance(example, Problem) else Item(row, example, raw=raw)


def _formatted(row: Row, named: FormatFile) -> Item | Problem:
    made = named.apply(row)
    return made if isinstance(made, Problem) else Item(row, made.example, made.marked)


def _check_columns(source: DatasetSource) -> None:
    columns = set(source.columns)
    if unknown := columns - set(COLUMNS):
        raise DatasetError(
            f"Columns cannot be mapped to {sorted(unknown)[0][:40]!r}.",
            f"They can be to {', '.join(COLUMNS)}.",
        )
    if columns and not (
        {"prompt", "response"} <= columns or {"messages"} <= columns or {"text"} <= columns
    ):
        raise DatasetError(
            f"The columns of {source.path} say too little.",
            "Name those of prompt and response, of messages, or of text.",
        )


class _Forms:
    """The form of each row by its keys; rows of one file may differ in the optional ones."""

    def __init__(self, source: DatasetSource) -> None:
        self._columns = dict(source.columns)
        self._known: dict[tuple[str, ...], Form | DatasetError] = {}

    def example_of(self, row: Row) -> Example | Problem:
        keys = tuple(row.fields)
        form = self._known.get(keys)
        if form is None:
            form = self._form(keys)
            if len(self._known) < 1_000:
                self._known[keys] = form
        if isinstance(form, DatasetError):
            return Problem(row.file, row.number, "columns", str(form))
        return example_of(row, form)

    def _form(self, keys: tuple[str, ...]) -> Form | DatasetError:
        if self._columns:
            chosen = {
                to: name
                for to, name in self._columns.items()
                if name in keys or to not in ("system", "input")
            }
            return Form("chosen columns", chosen)
        try:
            return recognise(keys)
        except DatasetError as error:
            return error
