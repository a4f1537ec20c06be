"""`Meters`: how often each route was asked, and how it answered."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["Meters"]


@dataclass(frozen=True, slots=True)
class Meters:
    """Requests by the path of their route and the status of their answer."""

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)

    def count(self, path: str, status: int) -> None:
        """Note an answer."""
        self.requests[path, status] += 1
