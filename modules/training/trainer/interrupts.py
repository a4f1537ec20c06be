"""`Interrupts`: Ctrl+C and SIGTERM as a wish to stop, which is looked at between steps."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

__all__ = ["Interrupts"]

_SAME_S = 2.0
"""Signals within this time are one wish."""


class Interrupts:
    """While it is entered, the first signal sets `stopped`; a later Ctrl+C ends the process.

    Later, because a launcher hands on what the terminal has sent to all of its processes
    already. `forward` is called with SIGTERM, which the terminal does not send, for a process
    that waits for another.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._at = 0.0
        self.forward: Callable[[int], object] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if self.stopped and number == signal.SIGINT and now - self._at > _SAME_S:
            raise KeyboardInterrupt
        if not self.stopped:
            self.stopped, self._at = True, now
        if self.forward is not None and number == signal.SIGTERM:
            self.forward(number)
