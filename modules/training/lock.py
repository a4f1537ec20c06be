"""`run.lock`: held while a run's process lives, so that whoever looks knows that it does.

The lock falls by itself when its process dies, however it does, and another process sees it
without knowing a process id, also after a restart of the server.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from modules.errors import StorageError

__all__ = ["LOCK", "hold", "is_held"]

LOCK = "run.lock"
_PATIENCE_S = 2.0
"""Somebody who looks holds the lock for an instant, which is no second run."""
_TICK_S = 0.02


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold the lock of the run in `folder`. Raises StorageError where another process does."""
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        deadline = time.monotonic() + _PATIENCE_S
        while not _lock(handle):
            if time.monotonic() > deadline:
                raise StorageError(
                    f"The run {folder.name} is being computed by another process.",
                    "Wait for its end, or stop it first.",
                )
            time.sleep(_TICK_S)
        yield
    finally:
        os.close(handle)


def is_held(folder: Path) -> bool:
    """Whether a process holds the lock of the run in `folder`."""
    try:
        handle = os.open(folder / LOCK, os.O_RDWR)
    except OSError:  # no such file: nobody has run here
        return False
    try:
        return not _lock(handle, shared=True)
    finally:
        os.close(handle)


def _lock(handle: int, *, shared: bool = False) -> bool:
    """Take the lock, which closing `handle` gives back; False while another one has it.

    Several who look (`shared`) do not get into one another's way.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
