"""A whole model: its files fetched side by side, and published in one step.

Everything happens in a hidden folder beside the final one, which appears by a rename when each
of its files is verified. Where a folder of that name is there already, what is right in it is
kept, and the rest takes its place file by file, each of them whole.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Literal

from modules.errors import (
    DownloadError,
    DownloadIncompleteError,
    DownloadStoppedError,
    InvalidInputError,
)
from modules.loader.download.listing import Listing, RemoteFile, child_of
from modules.loader.download.meter import DownloadProgress, Meter
from modules.loader.download.record import Record, read_record, verify, write_record
from modules.loader.download.transfer import Transfer, part_of
from modules.loader.publish import only_one, publish
from modules.paths import safe_child

__all__ = ["Stop", "bytes_present", "discard_partial", "fetch"]

Stop = Literal["", "pause", "cancel"]

_TICK_S = 0.1
_THREADS_LIMIT = 32
_RETRIES_LIMIT = 1000


def fetch(
    listing: Listing,
    parent: Path,
    *,
    on_progress: Callable[[DownloadProgress], None] = lambda progress: None,
    should_stop: Callable[[], Stop] = lambda: "",
    threads: int = 4,
    max_retries: int = 5,
) -> Path:
    """Fetch `listing` into `parent / listing.folder`, which it returns.

    Blocks; run it in a thread. Both callbacks are called from the thread that called this,
    about ten times a second. When `should_stop` answers "pause" or "cancel", what has come is
    kept (the next `fetch` goes on from there) or deleted, and DownloadStoppedError is raised,
    whose `paused` tells them apart. What has come is kept too when anything else ends it.

    `threads` files are fetched at a time; `max_retries` is how often in a row one of them may
    be asked for in vain. Raises DownloadIncompleteError, whose `missing` has the path and the
    reason of each file that did not come, DownloadError and InvalidInputError.
    """
    if not 1 <= threads <= _THREADS_LIMIT or not 0 <= max_retries <= _RETRIES_LIMIT:
        raise InvalidInputError(
            f"{threads} threads and {max_retries} retries are out of bounds.",
            f"Give 1 to {_THREADS_LIMIT} threads, and 0 to {_RETRIES_LIMIT} retries.",
        )
    try:
        parent.mkdir(parents=True, exist_ok=True)
        download = _Download(listing, parent.resolve(), on_progress, should_stop)
        with only_one(download.target, download.waiting):
            return download.run(threads, max_retries)
    except OSError as error:
        raise _cannot_write(listing, parent, error) from error


def bytes_present(listing: Listing, parent: Path) -> int:
    """How many bytes of `listing` an earlier download brought. Reads no file's content."""
    target = safe_child(parent, listing.folder)
    final, partial = _sizes(listing, target), _sizes(listing, _work_of(target))
    return sum(max(final[file], partial[file]) for file in listing.files)


def discard_partial(listing: Listing, parent: Path) -> None:
    """Delete what an unfinished download of `listing` left. Raises DownloadError."""
    target = safe_child(parent, listing.folder)
    if not _work_of(target).is_dir():
        return

    def busy() -> None:
        raise DownloadError(f"{listing.folder} is being downloaded.", "Pause or cancel that first.")

    try:
        with only_one(target, busy):
            shutil.rmtree(_work_of(target))
    except OSError as error:
        raise _cannot_write(listing, parent, error) from error


class _Download:
    """One call of `fetch`."""

    def __init__(
        self,
        listing: Listing,
        parent: Path,
        on_progress: Callable[[DownloadProgress], None],
        should_stop: Callable[[], Stop],
    ) -> None:
        self.target = safe_child(parent, listing.folder)
        self._listing = listing
        self._work = _work_of(self.target)
        self._meter = Meter(listing.total_bytes)
        self._on_progress = on_progress
        self._should_stop = should_stop
        self._due = 0.0

    def waiting(self) -> None:
        """While another one works on this model."""
        self._report("Waiting for another download of the same model")

    def run(self, threads: int, max_retries: int) -> Path:
        """Fetch what is missing, and publish."""
        before = self._earlier()
        try:
            wanted = self._wanted(before)
            if wanted:
                _prepare(self._work, self._listing, wanted)
                self._check_disk(wanted)
                self._fetch(wanted, threads, max_retries)
        except DownloadStoppedError as stopped:
            if not stopped.paused:
                shutil.rmtree(self._work, ignore_errors=True)
            raise
        self._publish(wanted, before)
        return self.target

    def _earlier(self) -> Record | None:
        """The record in the target folder, if there is one."""
        before = read_record(self.target)
        if before is not None and before.repo != self._listing.repo:
            raise DownloadError(
                f"{self.target.name} is there already, and came from {before.repo}.",
                f"Move the folder away, or fetch {self._listing.repo} to another place.",
            )
        return before

    def _wanted(self, before: Record | None) -> list[RemoteFile]:
        """The files that the target does not have, or not as they should be.

        The record is believed as long as the size is right; a file without one is read.
        """
        known = before.known_at(self._listing.revision) if before else frozenset()
        wanted = []
        for file in self._listing.files:
            path = child_of(self.target, file.path)
            right = path.is_file() and path.stat().st_size == file.size
            if right and file not in known:
                problems = verify(self.target, (file,), self._read)
                right = file.has_hash and not any(problem for _, problem in problems)
            if right:
                self._meter.moved(file.path, file.size)
            else:
                wanted.append(file)
        return wanted

    def _check_disk(self, wanted: list[RemoteFile]) -> None:
        sizes = _sizes(self._listing, self._work)
        for file in wanted:
            self._meter.moved(file.path, sizes[file])
        needed = sum(file.size - sizes[file] for file in wanted)
        free = shutil.disk_usage(self._work).free
        if needed > free:
            raise DownloadError(
                f"{self._listing.repo} needs {needed / 1e9:.2f} GB of disk space in "
                f"{self._work.parent}, and {free / 1e9:.2f} GB are free.",
                "Free some space, or fetch it to another disk.",
            )

    def _fetch(self, wanted: list[RemoteFile], threads: int, max_retries: int) -> None:
        self._report("Downloading")
        with ThreadPoolExecutor(threads, thread_name_prefix="download") as pool:
            try:
                results = {
                    pool.submit(
                        Transfer(self._listing, file, self._work, self._meter, max_retries).run
                    ): file
                    for file in wanted
                }
                pending = set(results)
                while pending:
                    _, pending = wait(pending, timeout=_TICK_S)
                    self._report("Downloading")
            finally:
                self._meter.stop()
                pool.shutdown(cancel_futures=True)
        self._refuse_missing(results)

    def _refuse_missing(self, results: dict[Future[None], RemoteFile]) -> None:
        missing: list[tuple[str, DownloadError]] = []
        for future, file in results.items():
            try:
                future.result()
            except DownloadError as error:
                missing.append((file.path, error))
        if missing:
            names = ", ".join(path for path, _ in missing[:3])
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            first = missing[0][1]
            raise DownloadIncompleteError(
                f"{first.message.rstrip('.')}; {len(missing)} of {len(self._listing.files)} files "
                f"of {self._listing.repo} are missing: {names}{more}.",
                f"{first.remedy} What has come is kept, and the same download goes on from there.",
                tuple((path, error.message) for path, error in missing),
            )

    def _publish(self, wanted: list[RemoteFile], before: Record | None) -> None:
        files = self._listing.files
        record = Record(self._listing.repo, self._listing.branch, self._listing.revision, files)
        if not self.target.is_dir() or not any(self.target.iterdir()):
            write_record(self._work, record)
            publish(self._work, self.target)
            return
        for file in wanted:
            path = child_of(self.target, file.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            child_of(self._work, file.path).replace(path)
        merged = self._merged(record, before)
        if merged != before:
            write_record(self.target, merged)
        shutil.rmtree(self._work, ignore_errors=True)

    def _merged(self, record: Record, before: Record | None) -> Record:
        """The new record with what was fetched earlier and is still in the repository.

        What the repository no longer has is deleted: an old shard beside new ones is no model.
        """
        taken = {file.path for file in record.files}
        others = {path for path, _ in self._listing.left_out}
        kept = []
        for file in before.files if before else ():
            if file.path in others and file.path not in taken:
                kept.append(file)
            elif file.path not in taken:
                child_of(self.target, file.path).unlink(missing_ok=True)
        return Record(record.repo, record.branch, record.revision, (*record.files, *kept))

    def _read(self, _: int) -> None:
        """While a file that was there is being read."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + _TICK_S
            self._report("Checking what is there")

    def _report(self, stage: str) -> None:
        """Tell how far it is. Raises DownloadStoppedError if that is to be the end."""
        self._on_progress(self._meter.progress(stage))
        asked = self._should_stop()
        if asked:
            self._meter.stop()
            name = self._listing.repo
            if asked == "pause":
                raise DownloadStoppedError(
                    f"The download of {name} is paused.", "Start it again to go on.", paused=True
                )
            raise DownloadStoppedError(
                f"The download of {name} was cancelled.", "Start it again any time.", paused=False
            )


def _work_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial")


def _prepare(work: Path, listing: Listing, wanted: list[RemoteFile]) -> None:
    """Keep what an earlier download left of these very files, and delete the rest."""
    before = read_record(work)
    if before is None:
        if work.exists():
            shutil.rmtree(work)
        work.mkdir()
    useful = before.known_at(listing.revision) & set(wanted) if before else frozenset()
    for file in before.files if before else ():
        if file not in useful:
            path = child_of(work, file.path)
            path.unlink(missing_ok=True)
            part_of(path).unlink(missing_ok=True)
    write_record(work, Record(listing.repo, listing.branch, listing.revision, tuple(wanted)))


def _sizes(listing: Listing, folder: Path) -> dict[RemoteFile, int]:
    """How many bytes of each file are in `folder`, going by its record and the sizes."""
    record, sizes = read_record(folder), dict.fromkeys(listing.files, 0)
    for file in record.known_at(listing.revision) & sizes.keys() if record else ():
        path = child_of(folder, file.path)
        for candidate in (part_of(path), path):
            with contextlib.suppress(OSError):
                sizes[file] = min(file.size, candidate.stat().st_size)
    return sizes


def _cannot_write(listing: Listing, parent: Path, error: OSError) -> DownloadError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DownloadError(
            f"The disk is full, and {listing.repo} is not complete.",
            f"Free some space in {parent}; what has come is kept, and the same download goes on "
            "from there.",
        )
    return DownloadError(
        f"{listing.repo} could not be written to {parent}: {error.strerror or error}.",
        "Look at the permissions of the folder, or fetch it to another place.",
    )
