"""`LogTail`: the last lines of the server's log, for the page."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

__all__ = ["KEPT_LINES", "LogLine", "LogTail"]

KEPT_LINES = 500
_MAX_CHARS = 4_000
"""Of one line: a traceback, and not a whole prompt."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """One record. `number` counts from 1, `at` is in seconds since 1970."""

    number: int
    at: float
    level: str
    source: str
    text: str


class LogTail(logging.Handler):
    """Keeps what was logged last; `redact` is applied before anything is kept."""

    def __init__(self, redact: Callable[[str], str], kept: int = KEPT_LINES) -> None:
        super().__init__()
        self._redact = redact
        self._lines: deque[LogLine] = deque(maxlen=kept)
        self._count = 0
        self._loggers: list[logging.Logger] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record. Called by logging, in the thread that logs, one at a time."""
        try:
            text = self.format(record)
            if len(text) > _MAX_CHARS:
                text = f"{text[: _MAX_CHARS - 1]}…"
            text = self._redact(text)
        except Exception:  # noqa: BLE001 - as every handler: what cannot be logged ends nothing
            self.handleError(record)
            return
        self._count += 1
        self._lines.append(
            LogLine(self._count, record.created, record.levelname, record.name, text)
        )

    def lines(self, after: int = 0) -> list[LogLine]:
        """What is kept of the lines with a number over `after`, the oldest first."""
        self.acquire()
        try:
            return [line for line in self._lines if line.number > after]
        finally:
            self.release()

    def follow(self, names: Iterable[str]) -> None:
        """Keep what the loggers of these names get from now on; "" is the one of all."""
        for name in names:
            logger = logging.getLogger(name or None)
            if self not in logger.handlers:
                logger.addHandler(self)
                self._loggers.append(logger)

    def close(self) -> None:
        """Follow no logger any more."""
        for logger in self._loggers:
            logger.removeHandler(self)
        self._loggers.clear()
        super().close()
