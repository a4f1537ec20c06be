"""`HookWatch`: the hooks of extensions in the engine worker, as the web process sees them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, runtime_checkable

from modules.engine.protocol import (
    ExtensionFailed,
    GenerateRequest,
    HookEntered,
    HookLeft,
    TensorHooks,
)

__all__ = ["HookHolder", "HookSource", "HookWatch"]


class HookSource(Protocol):
    """Who knows the extensions that are on, and switches them off."""

    def hooks_of(self, request: GenerateRequest) -> TensorHooks | None:
        """The hooks of a request that came without; None for none."""
        ...

    def failed(self, name: str, hook: str, error: str, version: int) -> None:
        """Hear what a hook did; `error` is one clause."""
        ...


@runtime_checkable
class HookHolder(Protocol):
    """An engine whose requests can have hooks."""

    def attach(self, source: HookSource) -> None:
        """Ask `source` for the hooks of every request from now on."""
        ...


class HookWatch:
    """Gives requests their hooks, and waits for the worker to come back from them.

    `hung` is called with the hook from which it did not. Belongs to the event loop.
    """

    def __init__(self, hung: Callable[[HookEntered], None]) -> None:
        self.source: HookSource | None = None
        self._hung = hung
        self._timer: asyncio.TimerHandle | None = None

    def with_hooks(self, request: GenerateRequest) -> GenerateRequest:
        """The request with the hooks of the extensions that are on."""
        if self.source is None or request.hooks is not None:
            return request
        hooks = self.source.hooks_of(request)
        return request if hooks is None else replace(request, hooks=hooks)

    def take(self, event: HookEntered | HookLeft | ExtensionFailed) -> None:
        """Hear from the worker."""
        if isinstance(event, ExtensionFailed):
            if self.source is not None:
                self.source.failed(event.name, event.hook, event.error, event.version)
            return
        self.clear()
        if isinstance(event, HookEntered):
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(event.seconds, self._overdue, event)

    def clear(self) -> None:
        """Wait no longer: it came back, or the worker is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _overdue(self, event: HookEntered) -> None:
        self._timer = None
        if self.source is not None:
            error = f"did not return within {event.seconds:g} s"
            self.source.failed(event.name, event.hook, error, event.version)
        self._hung(event)
