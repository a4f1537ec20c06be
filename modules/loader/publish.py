"""How a folder that was made elsewhere appears under its name: by one process, and whole."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["only_one", "publish", "sync"]

_TICK_S = 0.1
_CANNOT_LOCK = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # some network file systems


def publish(output: Path, target: Path) -> None:
    """Bring every byte to the disk, and only then give the folder its name."""
    for path in (*output.rglob("*"), output):
        sync(path)
    with contextlib.suppress(OSError):
        target.rmdir()  # an empty folder of that name, if there is one
    output.replace(target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Wait until the file or folder is on the disk."""
    if sys.platform == "win32" and path.is_dir():
        return  # a folder cannot be opened there
    handle = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def only_one(target: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Let one process (and thread) at a time work on `target`.

    While another one does, `waiting` is called all the time, and may raise to give up. The
    lock falls by itself when its process dies. Its file is deleted while it is held, so that
    whoever locks it next notices, and locks a new one.
    """
    lock = target.parent / f".{target.name}.lock"
    while (handle := _try_lock(lock)) is None:
        waiting()
        time.sleep(_TICK_S)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink()
        os.close(handle)


def _try_lock(lock: Path) -> int | None:
    """An open handle that holds the lock, or None while another one does."""
    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), lock.stat()):
            return handle
    except (BlockingIOError, PermissionError, FileNotFoundError):
        pass
    except OSError as error:
        if error.errno in _CANNOT_LOCK:
            return handle
        os.close(handle)
        raise
    os.close(handle)
    return None
