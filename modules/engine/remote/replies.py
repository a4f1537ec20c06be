"""`ReplyReader`: from the chunks of a streamed answer to the events of an engine."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from modules.engine.protocol import (
    Finished,
    FinishReason,
    GenerateRequest,
    TokenChunk,
    TokenLogprob,
    Usage,
)

__all__ = ["ReplyReader", "logprobs_of"]


class ReplyReader:
    """Reads one reply. Chunks count as a token each where the server does not tell.

    Stop strings are looked for here as well: some servers take few of them, and some leave them
    in the text. A model's thoughts, which come apart from its reply, stand before it between
    `<think>` and `</think>`, as the model wrote them.
    """

    def __init__(self, request: GenerateRequest, *, chat: bool) -> None:
        self._id = request.id
        self._seed = request.params.seed
        self._chat = chat
        self._cutter = _StopCutter(request.stops)
        self._thinking = False
        self._prompt_tokens = self._cached = 0
        self._tokens = self._counted = 0
        self._reason: FinishReason | None = None
        self._begun = time.monotonic()
        self._first = self._last = 0.0

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come: nothing after it counts."""
        return self._cutter.found

    @property
    def ended(self) -> bool:
        """Whether the reply has ended, rather than been cut."""
        return self._reason is not None or self.stopped

    def read(self, event: Mapping[str, Any]) -> TokenChunk | None:
        """What a chunk adds; None where it adds nothing."""
        self._note_usage(event.get("usage"))
        choices = event.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, Mapping):
            return None
        text = self._text(choice)
        logprobs = logprobs_of(choice.get("logprobs"))
        self._note_reason(choice.get("finish_reason"))
        if not text and not logprobs and self._counted <= self._tokens:
            return None
        tokens = self._new_tokens(len(logprobs))
        shown = self._cutter.push(text)
        if self._reason is not None:
            shown += self._cutter.rest()
        return TokenChunk(self._id, shown, tokens, logprobs)

    def rest(self) -> TokenChunk | None:
        """What waited for a stop string that did not come."""
        text = self._cutter.rest()
        return TokenChunk(self._id, text, 0) if text else None

    def finished(self, *, cancelled: bool = False) -> Finished:
        """The end of the reply, in the words of an engine."""
        reason: FinishReason = "cancelled" if cancelled else self._reason or "stop"
        if self.stopped and not cancelled:
            reason = "stop"
        usage = Usage(
            self._prompt_tokens,
            max(self._tokens, self._counted),
            self._cached,
            first_token_s=max(0.0, self._first - self._begun),
            decode_s=self._last - self._first,
        )
        return Finished(self._id, reason, usage, self._seed)

    def _note_usage(self, usage: object) -> None:
        if not isinstance(usage, Mapping):
            return
        self._prompt_tokens = _whole(usage.get("prompt_tokens"))
        self._counted = max(self._counted, _whole(usage.get("completion_tokens")))
        details = usage.get("prompt_tokens_details")
        if isinstance(details, Mapping):
            self._cached = _whole(details.get("cached_tokens"))

    def _note_reason(self, reason: object) -> None:
        if isinstance(reason, str):
            self._reason = "length" if reason == "length" else "stop"

    def _new_tokens(self, told: int) -> int:
        now = time.monotonic()
        self._first, self._last = self._first or now, now
        new = max(1, told) if not self._counted else max(0, self._counted - self._tokens)
        self._tokens += new
        return new

    def _text(self, choice: Mapping[str, Any]) -> str:
        if not self._chat:
            return _text(choice.get("text"))
        delta = choice.get("delta")
        delta = delta if isinstance(delta, Mapping) else {}
        thought = _text(delta.get("reasoning_content") or delta.get("reasoning"))
        said = _text(delta.get("content"))
        opened = closed = ""
        if thought and not self._thinking:
            self._thinking, opened = True, "<think>\n"
        if said and self._thinking:
            self._thinking, closed = False, "\n</think>\n\n"
        return opened + thought + closed + said


def logprobs_of(found: object) -> tuple[TokenLogprob, ...]:
    """The log-probabilities of a choice, in either form; what is missing in it is left out."""
    if not isinstance(found, Mapping):
        return ()
    content = found.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        return tuple(
            TokenLogprob(
                _text(one.get("token")),
                _number(one.get("logprob")),
                tuple(
                    (_text(top.get("token")), _number(top.get("logprob")))
                    for top in one.get("top_logprobs") or ()
                ),
            )
            for one in content
        )
    tokens, numbers = found.get("tokens") or (), found.get("token_logprobs") or ()
    tops = found.get("top_logprobs") or [None] * len(tokens)
    return tuple(
        TokenLogprob(
            _text(token),
            _number(number),
            tuple((_text(t), _number(p)) for t, p in (top or {}).items()),
        )
        for token, number, top in zip(tokens, numbers, tops, strict=False)
    )


class _StopCutter:
    """Ends a text before a stop string, of which no beginning is shown."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """What of the text so far can be shown and was not yet."""
        if self.found:
            return ""
        whole = self._held + text
        places = [at for stop in self._stops if (at := whole.find(stop)) >= 0]
        if places:
            self.found, self._held = True, ""
            return whole[: min(places)]
        keep = max((_overlap(whole, stop) for stop in self._stops), default=0)
        self._held = whole[len(whole) - keep :]
        return whole[: len(whole) - keep]

    def rest(self) -> str:
        """What was kept back, once nothing follows it."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """How much of the end of `text` may be the beginning of `stop`."""
    most = min(len(text), len(stop) - 1)
    return next((n for n in range(most, 0, -1) if text.endswith(stop[:n])), 0)


def _text(found: object) -> str:
    return found if isinstance(found, str) else ""


def _number(found: object) -> float:
    return float(found) if isinstance(found, int | float) else -9999.0


def _whole(found: object) -> int:
    return found if isinstance(found, int) and found > 0 else 0
