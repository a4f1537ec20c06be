"""`Signal`: tell any number of waiting coroutines that something changed.

A waiter remembers the version that it has seen; it can be late, but it cannot miss
a change, and it never queues more than one. That is what keeps a slow browser from
holding memory: it reads the present state when it comes round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

__all__ = ["Signal", "first_change"]


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
            await first_change({self: seen}, None)
        return self.version

    def add_waiter(self, waiter: asyncio.Future[None]) -> None:
        """Have `notify` complete `waiter` too."""
        self._waiters.add(waiter)

    def discard_waiter(self, waiter: asyncio.Future[None]) -> None:
        """Forget `waiter`."""
        self._waiters.discard(waiter)


async def first_change(seen: Mapping[Signal, int], timeout_s: float | None) -> bool:
    """Wait until one of the signals differs from its seen version; False after `timeout_s`."""
    if any(signal.version != version for signal, version in seen.items()):
        return True
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    for signal in seen:
        signal.add_waiter(waiter)
    try:
        await asyncio.wait_for(waiter, timeout_s)
    except TimeoutError:
        return False
    finally:
        for signal in seen:
            signal.discard_waiter(waiter)
    return True
