"""How far a download is, and the switch that ends it: shared by the threads that fetch."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["DownloadProgress", "Interrupted", "Meter"]

_WINDOW_S = 5.0
"""The time that the speed is an average over."""


class Interrupted(Exception):  # noqa: N818 - no error: somebody asked for it
    """The download was asked to end."""


@dataclass(frozen=True, slots=True)
class DownloadProgress:
    """How far a download is: `done` and `total` in bytes, `speed` in bytes a second.

    `done` counts what was there already, and goes back where a file has to be fetched again;
    `seconds_left` is None until it can be told; `file` is the one that moved last. `stage`
    says for a user what is being done.
    """

    done: int
    total: int
    speed: float
    seconds_left: float | None
    file: str
    stage: str = "Downloading"

    @property
    def fraction(self) -> float:
        """How much of the whole that is, from 0 to 1."""
        return self.done / self.total if self.total else 1.0


class Meter:
    """The bytes of each file that are there, and how fast they come."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._total = total
        self._clock = clock
        self._lock = threading.Lock()
        self._there: dict[str, int] = {}
        self._received = 0
        self._file = ""
        self._samples = deque([(clock(), 0)])
        self._stop = threading.Event()

    def moved(self, path: str, there: int, received: int = 0) -> None:
        """`there` bytes of a file are on the disk; `received` of them came just now."""
        with self._lock:
            self._there[path] = there
            self._received += received
            self._file = path

    def progress(self, stage: str = "Downloading") -> DownloadProgress:
        """Where it stands. For one thread alone, which calls it again and again."""
        with self._lock:
            done, received, file = sum(self._there.values()), self._received, self._file
        now = self._clock()
        self._samples.append((now, received))
        while len(self._samples) > 2 and self._samples[1][0] <= now - _WINDOW_S:
            self._samples.popleft()
        then, before = self._samples[0]
        speed = (received - before) / (now - then) if now > then else 0.0
        left = (self._total - done) / speed if speed > 0 else None
        return DownloadProgress(done, self._total, speed, left, file, stage)

    def stop(self) -> None:
        """Let every thread end at its next step."""
        self._stop.set()

    def check(self) -> None:
        """For the threads, at each step: raises Interrupted once `stop` was called."""
        if self._stop.is_set():
            raise Interrupted

    def sleep(self, seconds: float) -> None:
        """Wait. Raises Interrupted as soon as `stop` is called."""
        if self._stop.wait(seconds):
            raise Interrupted
