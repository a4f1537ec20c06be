"""`Database`: the SQLite file that holds what users write, and its transactions.

Each transaction is on the disk when it returns (WAL with `synchronous=FULL`). It may be
used from any thread. The stores of chats, drafts and the like each own their tables in it.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modules.chat.migrations import migrate
from modules.errors import NotFoundError, StorageError

__all__ = ["Database", "no_chat", "storable"]


class Database:
    """The SQLite file at `path`. Raises StorageError if it cannot be used."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        try:
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
            migrate(self._db)
        except sqlite3.Error as error:
            raise StorageError(
                f"The chats in {path} cannot be opened: {error}.",
                "Check the folder, or give another one with --user-data-dir.",
            ) from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction, joined by those opened within it.

        A full disk or a read-only file becomes a StorageError, and nothing is changed.
        """
        with self._lock:
            if self._db.in_transaction:
                yield self._db
                return
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                raise StorageError(
                    f"The change could not be saved: {error}.",
                    "Free some disk space or make user_data/ writable, then try again.",
                ) from error
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for queries alone. What fails becomes a StorageError."""
        with self._lock:
            try:
                yield self._db
            except OverflowError as error:  # an id larger than SQLite's, which nothing has
                raise no_chat() from error
            except sqlite3.Error as error:
                raise StorageError(
                    f"The chats could not be read: {error}.", "Check the disk, then try again."
                ) from error


def storable(text: str) -> str:
    """`text` without lone surrogates (half an emoji), which cannot be stored as UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def no_chat() -> NotFoundError:
    """What a chat that is gone, or another's, is answered with."""
    return NotFoundError("This chat does not exist.", "Choose another one at the left.")
