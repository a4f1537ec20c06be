"""What the page does with datasets: list, upload, look at, delete."""

from __future__ import annotations

import asyncio
import itertools
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from modules.context import AppContext
from modules.errors import (
    DatasetError,
    InvalidInputError,
    LanternError,
    NotFoundError,
    StorageError,
)
from modules.paths import safe_child
from modules.settings import ROOT
from modules.training.config import DatasetSource
from modules.training.examples import Form, recognise
from modules.training.formats import list_formats
from modules.training.rows import DATASET_SUFFIXES, Problem, read_rows
from modules.training.sources import DataFolders, Item, read_source, source_files

__all__ = [
    "MAX_UPLOAD_BYTES",
    "data_folders",
    "delete_set",
    "formats_json",
    "look_json",
    "sets_json",
    "store_upload",
]

MAX_UPLOAD_BYTES = 4 * 2**30
_SPARE_BYTES = 512 * 2**20
"""What an upload leaves free on the disk."""
_EXAMPLES = ROOT / "training" / "examples"
_HELD_OUT = "held-out"
"""In the names of files that are scored, and not learnt from."""
_RAW = (".txt", ".md")
_LOOKED_AT = 200
"""Rows from which it is told how a set is written."""


def data_folders(ctx: AppContext) -> DataFolders:
    """Where the paths of a config that is in no file yet are looked for."""
    return DataFolders(None, ctx.settings.paths.datasets, ROOT)


# -- the list -----------------------------------------------------------------------------


def sets_json(ctx: AppContext) -> list[dict[str, Any]]:
    """The sets that come with Lantern, and those of the user."""
    shipped = [
        _set_json(file, str(file.relative_to(ROOT)), yours=False)
        for file in sorted(_EXAMPLES.glob("*"))
        if file.suffix.lower() in _TABLES and _HELD_OUT not in file.name
    ]
    own = ctx.settings.paths.datasets
    children = sorted(own.iterdir()) if own.is_dir() else []
    yours = [
        _set_json(child, child.name, yours=True)
        for child in children
        if not child.name.startswith(".")
        and (child.is_dir() or child.suffix.lower() in DATASET_SUFFIXES)
    ]
    return [*yours, *shipped]


_TABLES = DATASET_SUFFIXES - set(_RAW)
"""A README beside the examples is none of them."""


def _set_json(place: Path, path: str, *, yours: bool) -> dict[str, Any]:
    files = [file for file in place.rglob("*") if file.is_file()] if place.is_dir() else [place]
    about = f"folder of {len(files):,} files" if place.is_dir() else ""
    return {
        "path": path,
        "name": place.name,
        "about": about or ("yours" if yours else "comes with Lantern"),
        "size": sum(file.stat().st_size for file in files),
        "yours": yours,
    }


def formats_json(ctx: AppContext) -> list[str]:
    """The format files that a set can be written by."""
    return list_formats((ROOT / "training" / "formats",))


# -- how a set is written -----------------------------------------------------------------


def look_json(ctx: AppContext, source: DatasetSource) -> dict[str, Any]:
    """The form of a set, the columns that are read, and all that it has.

    `problem` is a sentence where its first rows cannot be read by it. Raises DatasetError
    where there is nothing to look at.
    """
    folders = data_folders(ctx)
    file = source_files(source, folders)[0]
    if file.suffix.lower() in _RAW:
        return {"form": "plain text, cut into pieces", "columns": {}, "keys": [], "problem": ""}
    keys = _keys(file)
    form, problem = Form(""), ""
    try:
        form = Form("columns as chosen", source.columns) if source.columns else recognise(keys)
    except DatasetError as error:
        problem = str(error)
    if source.format:
        form, problem = Form(f"the format {source.format}"), ""
    if not problem:
        problem = _first_problem(source, file, folders)
    return {"form": form.name, "columns": dict(form.columns), "keys": keys, "problem": problem}


def _keys(file: Path) -> list[str]:
    """The columns of the first rows, in the order in which they come."""
    rows = itertools.islice(read_rows(file), _LOOKED_AT)
    found = dict.fromkeys(
        str(key) for row in rows if not isinstance(row, Problem) for key in row.fields
    )
    if not found:
        raise DatasetError(f"{file.name} has no row that can be read.", "Look into the file.")
    return list(found)[:100]


def _first_problem(source: DatasetSource, file: Path, folders: DataFolders) -> str:
    """Why none of the first rows can be learnt from; empty if some can."""
    try:
        rows = list(itertools.islice(read_source(source, file, folders), _LOOKED_AT))
    except LanternError as error:
        return str(error)
    if any(isinstance(row, Item) for row in rows) or not isinstance(rows[0], Problem):
        return ""
    return f"No row of the first {len(rows)} can be learnt from: {rows[0].sentence}"


# -- files of the user's own --------------------------------------------------------------


async def store_upload(
    ctx: AppContext, name: str, size: int, chunks: AsyncIterator[bytes]
) -> dict[str, Any]:
    """Write a file into user_data/datasets as it comes; `size` is what was announced, or 0.

    It gets its name once it is complete. Raises InvalidInputError for what is no dataset or
    too large, and StorageError.
    """
    folder = ctx.settings.paths.datasets
    name = _clean(name)
    try:
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        room = min(MAX_UPLOAD_BYTES, shutil.disk_usage(folder).free - _SPARE_BYTES)
        _require_room(size, room)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".upload-") as made:
            part = Path(made) / "part"
            await _write(part, chunks, room)
            target = _publish(part, folder, name)
    except OSError as error:
        raise StorageError(
            f"{name} cannot be kept: {error.strerror}.",
            "Make room on the disk, or make user_data/datasets writable.",
        ) from error
    return _set_json(target, target.name, yours=True)


def _clean(name: str) -> str:
    """A name for the file, as near to the given one as a file name may be."""
    bare = re.sub(r"[^\w .+()@=,'-]+", "-", name.replace("\\", "/").rpartition("/")[2], flags=re.A)
    bare = bare.strip(" .-_'+()@=,")[-120:].lstrip(" .-_'+()@=,")
    if Path(bare).suffix.lower() not in DATASET_SUFFIXES:
        kinds = ", ".join(sorted(DATASET_SUFFIXES))
        raise InvalidInputError(f"{name[:60]} is no dataset that Lantern reads.", f"Use {kinds}.")
    return bare


def _require_room(size: int, room: int) -> None:
    if size <= room:
        return
    if size > MAX_UPLOAD_BYTES:
        raise InvalidInputError(
            f"The file has {size / 2**30:.1f} GB, and {MAX_UPLOAD_BYTES / 2**30:.0f} GB can be "
            "uploaded.",
            "Put it into user_data/datasets by hand.",
        )
    raise StorageError(
        f"The file has {size / 1e6:,.0f} MB, and the disk has room for {max(0, room) / 1e6:,.0f}.",
        "Make room on the disk.",
    )


async def _write(part: Path, chunks: AsyncIterator[bytes], room: int) -> None:
    written = 0
    with part.open("wb") as file:
        async for chunk in chunks:
            written += len(chunk)
            _require_room(written, room)
            await asyncio.to_thread(file.write, chunk)
    if not written:
        raise InvalidInputError("The file is empty.", "Choose another file.")


def _publish(part: Path, folder: Path, name: str) -> Path:
    """Give a complete upload the first name that is free."""
    stem, suffix = Path(name).stem, Path(name).suffix
    for number in range(1, 1000):
        target = safe_child(folder, name if number == 1 else f"{stem}-{number}{suffix}")
        if not target.exists():
            part.rename(target)
            return target
    raise StorageError(f"There are too many files called {name}.", "Give it another name.")


def delete_set(ctx: AppContext, name: str) -> None:
    """Delete one of the user's own sets. Raises NotFoundError and StorageError."""
    target = safe_child(ctx.settings.paths.datasets, name)
    try:
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink()
    except FileNotFoundError as error:
        raise NotFoundError(f"There is no set {name}.", "It was deleted before.") from error
    except OSError as error:
        raise StorageError(
            f"{name} cannot be deleted: {error.strerror}.", "Make its folder writable."
        ) from error
