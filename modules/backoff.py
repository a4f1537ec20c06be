"""`BackOff`: whoever guesses wrong must wait, longer each time."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field

__all__ = ["BackOff"]

_MAX_CLIENTS = 10_000


@dataclass(slots=True)
class _Tries:
    failed: int = 0
    until: float = 0.0
    wrong: str = ""


@dataclass(slots=True)
class BackOff:
    """Wrong guesses by client: `free` of them, then pauses that double up to `max_pause_s`."""

    free: int
    max_pause_s: float
    _tries: dict[str, _Tries] = field(default_factory=dict)

    def waiting(self, client: str) -> bool:
        """Whether nothing that `client` offers is looked at now."""
        tries = self._tries.get(client)
        return tries is not None and time.monotonic() < tries.until

    def forgive(self, client: str) -> None:
        """Begin anew with a client that was right."""
        self._tries.pop(client, None)

    def failed(self, client: str, guess: str) -> None:
        """Count a wrong guess. The same one again, as an open tab sends it, is none."""
        if len(self._tries) > _MAX_CLIENTS:
            self._tries.clear()
        tries = self._tries.setdefault(client, _Tries())
        guess = hashlib.sha256(guess.encode("utf-8", "surrogatepass")).hexdigest()
        if guess == tries.wrong:
            return
        tries.failed, tries.wrong = tries.failed + 1, guess
        if tries.failed >= self.free:
            doublings = min(tries.failed - self.free, 30)
            tries.until = time.monotonic() + min(self.max_pause_s, 2.0**doublings)
