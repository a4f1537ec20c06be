"""Bounded calls: foreign code gets a thread of its own and a deadline.

A call that does not return in time is interrupted, if Python can: an exception is raised in
its thread, which ends any loop of Python, but no call into C that keeps the interpreter's lock.
Either way whoever asked gets an answer in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import ctypes
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from modules.scripts import HookError, Interrupted, clause_of, kind_of, place_of

__all__ = ["DECLINED", "Deadlines", "call", "call_waiting", "iterate"]

DECLINED: Any = object()
"""The one item of an iterator that is none: the hook leaves it to others."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds that a hook may take; `piece_s` is between two pieces of a custom reply."""

    hook_s: float = 5.0
    setup_s: float = 60.0
    piece_s: float = 30.0
    grace_s: float = 3.0
    """For the engine worker to come back from a hook that was interrupted."""

    def of(self, hook: str) -> float:
        """What a call of `hook` gets."""
        return self.setup_s if hook in ("import", "setup", "ui") else self.hook_s


class _Thread:
    """One call under way. `outcome` is (value, None) or (None, error) once it has ended."""

    def __init__(self, function: Callable[[], Any], name: str, ended: Callable[[], None]) -> None:
        self.outcome: tuple[Any, BaseException | None] | None = None
        self._function = function
        self._ended = ended
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._run,), name=f"extension {name}", daemon=True
        )
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(Interrupted):
            try:
                outcome: tuple[Any, BaseException | None] = (self._function(), None)
            except BaseException as error:  # noqa: BLE001 - the extension call: SystemExit too
                outcome = (None, error)
            self.outcome = outcome
            self._ended()

    def interrupt(self) -> str:
        """End the call if Python can; returns where it was."""
        ident = self._thread.ident
        frame = sys._current_frames().get(ident) if ident is not None else None
        place = place_of(frame) if frame is not None else ""
        if ident is not None and self._thread.is_alive():
            _interrupt(ident)
        return place


def _interrupt(ident: int) -> None:
    """Raise Interrupted in the thread `ident`, at its next step of Python."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(Interrupted))


async def call(function: Callable[[], Any], name: str, seconds: float) -> Any:
    """What `function` returns, called in a thread. Raises HookError.

    Cancelling lets the call go on until its deadline.
    """
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def tell() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(ended.set)

    thread = _Thread(function, name, tell)
    try:
        await asyncio.wait_for(ended.wait(), seconds)
    except TimeoutError:
        return _result(thread, seconds)
    except asyncio.CancelledError:
        loop.call_later(seconds, lambda: thread.outcome or thread.interrupt())
        raise
    return _result(thread, seconds)


def call_waiting(function: Callable[[], Any], name: str, seconds: float) -> Any:
    """As `call`, where there is no event loop yet. Raises HookError."""
    ended = threading.Event()
    thread = _Thread(function, name, ended.set)
    ended.wait(seconds)
    return _result(thread, seconds)


def _result(thread: _Thread, seconds: float) -> Any:
    if thread.outcome is None:
        where = thread.interrupt()
        raise HookError(f"did not return within {seconds:g} s{where}")
    value, error = thread.outcome
    if error is not None:
        raise HookError(clause_of(error)) from error
    return value


async def iterate(
    make: Callable[[], Iterator[Any]], name: str, seconds: float
) -> AsyncGenerator[Any, None]:
    """The items of an iterator that lives in a thread. Raises HookError.

    Each may take `seconds`. Closing early closes the iterator too, after its present item.
    """
    loop = asyncio.get_running_loop()
    items: asyncio.Queue[Any] = asyncio.Queue()
    closed = threading.Event()
    end = object()

    def put(item: Any) -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(items.put_nowait, item)

    def pump() -> None:
        iterator = make()
        if iterator is None:
            put(DECLINED)
            return
        if isinstance(iterator, str | bytes) or not hasattr(iterator, "__iter__"):
            raise TypeError(f"it returned {kind_of(iterator)} and no generator of texts")
        try:
            for item in iterator:
                if closed.is_set():
                    return
                put(item)
        finally:
            if hasattr(iterator, "close"):
                iterator.close()

    thread = _Thread(pump, name, lambda: put(end))
    try:
        while True:
            try:
                item = await asyncio.wait_for(items.get(), seconds)
            except TimeoutError:
                where = thread.interrupt()
                raise HookError(f"gave nothing new within {seconds:g} s{where}") from None
            if item is end:
                _result(thread, seconds)
                return
            yield item
    finally:
        closed.set()
        if thread.outcome is None:
            loop.call_later(seconds, lambda: thread.outcome or thread.interrupt())
