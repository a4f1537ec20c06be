"""What was fetched, remembered in its folder, and whether it is still that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from modules.errors import InvalidNameError
from modules.loader.download.listing import RECORD_NAME, RemoteFile, child_of
from modules.paths import write_atomically

__all__ = ["Digest", "Record", "read_record", "verify", "write_record"]

_RECORD_LIMIT = 16 * 2**20
_BLOCK = 2**20


@dataclass(frozen=True, slots=True)
class Record:
    """The origin of a folder, and the files that came from there."""

    repo: str
    branch: str
    revision: str
    files: tuple[RemoteFile, ...]

    def known_at(self, revision: str) -> frozenset[RemoteFile]:
        """Those that are surely the same at `revision`: by their hash, if they have one."""
        same = revision == self.revision
        return frozenset(file for file in self.files if same or file.has_hash)


class Digest:
    """The hash of a file's content as it comes, to be compared with the hub's."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._size = 0
        if file.sha256 or not file.git_sha1:
            self._hash = hashlib.sha256()
            self._expected = file.sha256
        else:  # git's name for a content: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
            self._hash = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
            self._expected = file.git_sha1

    def update(self, block: bytes) -> None:
        """Take the next bytes."""
        self._hash.update(block)
        self._size += len(block)

    @property
    def problem(self) -> str:
        """What is wrong with the bytes so far as the whole content; empty if nothing is."""
        if self._size != self._file.size:
            return f"it has {self._size} bytes instead of {self._file.size}"
        if self._expected and self._hash.hexdigest() != self._expected:
            return f"its {self._hash.name} is not the one that the hub lists"
        return ""


def read_record(folder: Path) -> Record | None:
    """What the folder says about its origin, or None if it says nothing that can be read."""
    try:
        path = folder / RECORD_NAME
        if path.stat().st_size > _RECORD_LIMIT:
            return None
        told = json.loads(path.read_text("utf-8"))
        files = tuple(RemoteFile(**entry) for entry in told.pop("files"))
        record = Record(**told, files=files)
        texts = [record.repo, record.branch, record.revision]
        for file in files:
            texts += [file.path, file.sha256, file.git_sha1]
        usable = all(isinstance(file.size, int) for file in files)
        return record if usable and all(isinstance(text, str) for text in texts) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def write_record(folder: Path, record: Record) -> None:
    """Keep `record` in the folder. Raises OSError."""
    write_atomically(folder / RECORD_NAME, json.dumps(asdict(record), indent=1) + "\n")


def verify(
    folder: Path,
    files: tuple[RemoteFile, ...],
    on_bytes: Callable[[int], None] = lambda count: None,
) -> Iterator[tuple[str, str]]:
    """Each file's path and what is wrong with it, empty if nothing is.

    Reads every byte, a block at a time; `on_bytes` is told how many more were read, and may
    raise to end it.
    """
    for file in files:
        yield file.path, _problem(folder, file, on_bytes)


def _problem(folder: Path, file: RemoteFile, on_bytes: Callable[[int], None]) -> str:
    digest = Digest(file)
    try:
        with child_of(folder, file.path).open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
                on_bytes(len(block))
    except InvalidNameError as error:
        return error.message
    except FileNotFoundError:
        return "it is missing"
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    return digest.problem
