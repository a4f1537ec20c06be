"""One file: attempt after attempt, each going on where the last one ended, then verified.

Until its hash is right, a file is called `.NAME.part`. What a killed process left under that
name is read again, hashed, and continued.
"""

from __future__ import annotations

import re
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from modules.errors import DownloadError
from modules.loader.download.hub import Refusal, explain, open_file
from modules.loader.download.listing import Listing, RemoteFile, child_of
from modules.loader.download.meter import Meter
from modules.loader.download.record import Digest
from modules.loader.publish import sync

if TYPE_CHECKING:
    from httpx2 import Response

__all__ = ["Transfer", "part_of"]

_BLOCK = 2**20
_PIECE = 16 * 2**30  # content networks refuse to send more than 50 GB in one answer
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 30.0
_PATIENCE_S = 60.0  # a hub that wants a longer pause than this is not waited for


def part_of(path: Path) -> Path:
    """Where the beginning of a file lies. No file of a hub has such a name: it is hidden."""
    return path.with_name(f".{path.name}.part")


class Transfer:
    """Brings `file` of `listing` into `folder`."""

    def __init__(
        self, listing: Listing, file: RemoteFile, folder: Path, meter: Meter, max_retries: int
    ) -> None:
        self._listing = listing
        self._file = file
        self._target = child_of(folder, file.path)
        self._meter = meter
        self._max_retries = max_retries
        self._digest = Digest(file)
        self._offset = 0

    def run(self) -> None:
        """Bring it. Raises DownloadError, OSError, or Interrupted when the meter is stopped."""
        self._meter.check()
        if not self._target.is_file():
            self._target.parent.mkdir(parents=True, exist_ok=True)
            part = part_of(self._target)
            with FileIO(part, "a+") as sink:
                self._take_up(sink)
                self._fill(sink)
                if self._digest.problem:  # damaged on the way or on the disk: once more
                    self._rewind(sink)
                    self._fill(sink)
                if problem := self._digest.problem:
                    self._rewind(sink)
                    raise DownloadError(
                        f"{self._file.path} came damaged twice: {problem}.",
                        "Try again later, or another hub with HF_ENDPOINT.",
                    )
            sync(part)
            part.replace(self._target)
        self._meter.moved(self._file.path, self._file.size)

    def _take_up(self, sink: FileIO) -> None:
        """Hash what an earlier download left."""
        sink.seek(0)
        while block := sink.read(_BLOCK):
            self._meter.check()
            self._digest.update(block)
            self._offset += len(block)
        if self._offset > self._file.size:
            self._rewind(sink)

    def _fill(self, sink: FileIO) -> None:
        """Append until all bytes are there, however often the connection breaks.

        Attempts that bring nothing new are counted; bytes that came again are not new.
        """
        import httpx2

        failures, most = 0, self._offset
        while self._offset < self._file.size:
            wait_s = 0.0
            try:
                self._attempt(sink)
                continue
            except Refusal as refusal:
                error, wait_s = refusal.error, refusal.wait_s
                if not refusal.passing or wait_s > _PATIENCE_S:
                    raise error from None
                if refusal.restart:
                    self._rewind(sink)
            except httpx2.HTTPError as cause:
                error = explain(cause, self._listing.endpoint)
            failures = 1 if self._offset > most else failures + 1
            most = max(most, self._offset)
            if failures > self._max_retries:
                raise error
            self._meter.sleep(
                max(wait_s, min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** (failures - 1)))
            )

    def _attempt(self, sink: FileIO) -> None:
        """One request: append what it brings. Raises Refusal or httpx2's errors."""
        start = self._offset
        stop = min(self._file.size, start + _PIECE)
        with open_file(self._listing, self._file, start, stop) as response:
            if response.status_code == 200:  # the whole file, whatever was asked for
                stop = self._file.size
                if start > 0:
                    self._rewind(sink)
            elif not _begins_at(response, start, self._file.size):
                raise self._lie("sends another part of it than was asked for")
            for chunk in response.iter_bytes():
                self._meter.check()
                if len(chunk) > stop - self._offset:
                    raise self._lie("sends more of it than there is")
                self._append(sink, chunk)
        if self._offset < stop:
            raise self._lie("ends it too early", restart=False)

    def _append(self, sink: FileIO, chunk: bytes) -> None:
        view = memoryview(chunk)
        while view:  # a nearly full disk takes some, and refuses the rest at the next call
            view = view[sink.write(view) :]
        self._digest.update(chunk)
        self._offset += len(chunk)
        self._meter.moved(self._file.path, self._offset, len(chunk))

    def _rewind(self, sink: FileIO) -> None:
        sink.truncate(0)
        self._digest = Digest(self._file)
        self._offset = 0
        self._meter.moved(self._file.path, 0)

    def _lie(self, what: str, *, restart: bool = True) -> Refusal:
        error = DownloadError(
            f"The hub lists {self._file.path} with {self._file.size} bytes and {what}.",
            "Try again later, or another hub with HF_ENDPOINT.",
        )
        return Refusal(error, passing=True, restart=restart)


def _begins_at(response: Response, start: int, size: int) -> bool:
    told = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("content-range", ""))
    return told is not None and int(told[1]) == start and told[2] in ("*", str(size))
