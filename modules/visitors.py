"""`Visitors`: who has the page open."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from modules.access import Caller

__all__ = ["Kind", "Visitor", "Visitors"]

Kind = Literal["here", "owner", "login", "guest"]

_REMEMBERED_S = 600.0
"""A hidden tab closes its stream; whoever comes back within this time was here all along."""
_MAX_REMEMBERED = 1_000


@dataclass(slots=True)
class Visitor:
    """One person, or one browser of a guest. `since` and `left` are in seconds since 1970.

    `name` is the login; a guest without one has a `number` in the order in which they came.
    """

    kind: Kind
    name: str
    number: int
    since: float
    tabs: int = 0
    left: float = 0.0


class Visitors:
    """Counts the event streams of everybody. Belongs to one event loop."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._guests = 0
        self._known: dict[tuple[str, str, str], Visitor] = {}

    @contextlib.contextmanager
    def visit(self, caller: Caller) -> Iterator[None]:
        """Count a stream of `caller` while it is open."""
        visitor = self._visitor(caller)
        visitor.tabs += 1
        try:
            yield
        finally:
            visitor.tabs -= 1
            visitor.left = self._now()

    def present(self) -> list[Visitor]:
        """Those who have a tab open now, the first to come first."""
        return sorted((one for one in self._known.values() if one.tabs), key=lambda one: one.since)

    def _visitor(self, caller: Caller) -> Visitor:
        now = self._now()
        for old in [key for key, one in self._known.items()
                    if not one.tabs and now - one.left > _REMEMBERED_S]:  # fmt: skip
            del self._known[old]
        kind = _kind(caller)
        key = (kind, caller.user, caller.name)
        if key not in self._known:
            if len(self._known) >= _MAX_REMEMBERED:
                gone = (key for key, one in self._known.items() if not one.tabs)
                del self._known[next(gone, next(iter(self._known)))]
            self._guests += kind == "guest"
            number = self._guests if kind == "guest" else 0
            self._known[key] = Visitor(kind, caller.name, number, since=now)
        return self._known[key]


def _kind(caller: Caller) -> Kind:
    if caller.local:
        return "here"
    if caller.admin:
        return "owner"
    return "login" if caller.name else "guest"
