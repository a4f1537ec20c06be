"""`Tally`: what an engine has done since it began, for those who watch it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from modules.engine.protocol import Finished, TokenChunk

__all__ = ["Tally"]


@dataclass(slots=True)
class Tally:
    """Tokens of all replies, ends by their reason, and which requests are under way.

    A request waits until its first token has come. `cached_tokens` are those of the prompts that
    were not computed again. `replies` also counts those that were closed early ("closed") and
    those that failed ("failed").
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    replies: Counter[str] = field(default_factory=Counter)
    waiting: set[str] = field(default_factory=set)
    running: set[str] = field(default_factory=set)

    def begin(self, request_id: str) -> None:
        """A request was sent."""
        self.waiting.add(request_id)

    def note(self, event: TokenChunk | Finished) -> None:
        """Something came of it."""
        self.waiting.discard(event.id)
        if isinstance(event, TokenChunk):
            self.running.add(event.id)
            self.completion_tokens += event.tokens
        else:
            self.prompt_tokens += event.usage.prompt_tokens
            self.cached_tokens += event.usage.cached_tokens
            self._end(event.id, event.reason)

    def end(self, request_id: str, *, failed: bool) -> None:
        """Nobody waits for it any more; without effect after a `Finished`."""
        if request_id in self.waiting or request_id in self.running:
            self._end(request_id, "failed" if failed else "closed")

    def _end(self, request_id: str, reason: str) -> None:
        self.waiting.discard(request_id)
        self.running.discard(request_id)
        self.replies[reason] += 1
