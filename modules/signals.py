"""`Signal`: tell any number of waiting coroutines that something changed.

A waiter remembers the version that it has seen; it can be late, but it cannot miss
a change, and it never queues more than one. That is what keeps a slow browser from
holding memory: it reads the present state when it comes round.
"""

from __future__ import annotations

import asyncio

__all__ = ["Signal"]


class Signal:
    """A version number to wait on. Belongs to one event loop."""

    def __init__(self) -> None:
        self.version = 0
        self._waiters: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Count one change and wake every waiter."""
        self.version += 1
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, seen: int) -> int:
        """Return the version as soon as it differs from `seen`."""
        while self.version == seen:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
        return self.version
