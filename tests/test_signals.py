"""A waiter may be late, but misses nothing; and it leaves nothing behind."""

from __future__ import annotations

import asyncio

import pytest

from modules.signals import Signal, first_change

pytestmark = pytest.mark.anyio


async def test_a_change_before_the_wait_is_not_missed() -> None:
    signal = Signal()
    signal.notify()
    assert await signal.wait(0) == 1


async def test_every_waiter_is_woken() -> None:
    signal = Signal()
    waiting = [asyncio.create_task(signal.wait(0)) for _ in range(5)]
    await asyncio.sleep(0)
    signal.notify()
    assert await asyncio.gather(*waiting) == [1] * 5


async def test_a_late_waiter_sees_the_newest_version_once() -> None:
    signal = Signal()
    for _ in range(100):
        signal.notify()
    assert await signal.wait(3) == 100


async def test_the_first_of_several_signals_ends_the_wait() -> None:
    quiet, loud = Signal(), Signal()
    waiting = asyncio.create_task(first_change({quiet: 0, loud: 0}, None))
    await asyncio.sleep(0)
    loud.notify()
    assert await waiting


async def test_without_a_change_the_wait_ends_after_its_time() -> None:
    assert not await first_change({Signal(): 0}, 0.001)


async def test_a_wait_that_ends_leaves_no_waiter_behind() -> None:
    quiet, loud = Signal(), Signal()
    await first_change({quiet: 0}, 0.001)
    cancelled = asyncio.create_task(first_change({quiet: 0, loud: 0}, None))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    assert not quiet._waiters
    assert not loud._waiters


async def test_a_cancelled_waiter_does_not_disturb_the_others() -> None:
    signal = Signal()
    gone, stays = (asyncio.create_task(signal.wait(0)) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    signal.notify()
    assert await stays == 1
