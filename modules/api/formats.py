"""The two forms in which OpenAI's API writes a reply: chat, and plain completion."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any, Protocol

from modules.api.generation import Reply, Total
from modules.engine.protocol import TokenLogprob

__all__ = ["ChatFormat", "CompletionFormat", "Format", "usage_body"]

Json = dict[str, Any]


class Format(Protocol):
    """How choices are written. `logprobs` are None unless they were asked for."""

    def envelope(self, streamed: bool) -> Json:
        """Everything around the choices; the same id in every chunk."""
        ...

    def whole(self, index: int, reply: Reply) -> Json:
        """A finished choice."""
        ...

    def opening(self, index: int) -> Json | None:
        """What a streamed choice begins with, if anything."""
        ...

    def delta(self, index: int, text: str, logprobs: Sequence[TokenLogprob]) -> Json:
        """New text of a streamed choice."""
        ...

    def closing(self, index: int, finish_reason: str) -> Json:
        """The end of a streamed choice."""
        ...


class ChatFormat:
    """`chat.completion` and its chunks."""

    def __init__(self, model: str, with_logprobs: bool) -> None:
        self._fixed = _fixed("chatcmpl", model)
        self._with_logprobs = with_logprobs

    def envelope(self, streamed: bool) -> Json:
        """See Format."""
        return self._fixed | {"object": "chat.completion.chunk" if streamed else "chat.completion"}

    def whole(self, index: int, reply: Reply) -> Json:
        """See Format."""
        return {
            "index": index,
            "message": {"role": "assistant", "content": reply.text, "refusal": None},
            "logprobs": self._logprobs(reply.logprobs),
            "finish_reason": reply.finish_reason,
        }

    def opening(self, index: int) -> Json | None:
        """See Format."""
        return _chunk(index, delta={"role": "assistant", "content": ""})

    def delta(self, index: int, text: str, logprobs: Sequence[TokenLogprob]) -> Json:
        """See Format."""
        return _chunk(index, delta={"content": text}, logprobs=self._logprobs(logprobs))

    def closing(self, index: int, finish_reason: str) -> Json:
        """See Format."""
        return _chunk(index, delta={}, finish_reason=finish_reason)

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> Json | None:
        if not self._with_logprobs:
            return None
        content = [
            _token(t.text, t.logprob) | {"top_logprobs": [_token(*pair) for pair in t.top]}
            for t in tokens
        ]
        return {"content": content, "refusal": None}


class CompletionFormat:
    """`text_completion`; the chunks have the same form."""

    def __init__(self, model: str, with_logprobs: bool) -> None:
        self._fixed = _fixed("cmpl", model) | {"object": "text_completion"}
        self._with_logprobs = with_logprobs
        self._offsets: dict[int, int] = {}

    def envelope(self, streamed: bool) -> Json:
        """See Format."""
        return self._fixed

    def whole(self, index: int, reply: Reply) -> Json:
        """See Format."""
        written = self.delta(index, reply.text, reply.logprobs)
        return written | {"finish_reason": reply.finish_reason}

    def opening(self, index: int) -> Json | None:
        """See Format."""
        return None

    def delta(self, index: int, text: str, logprobs: Sequence[TokenLogprob]) -> Json:
        """See Format."""
        return _chunk(index, text=text, logprobs=self._logprobs(index, logprobs))

    def closing(self, index: int, finish_reason: str) -> Json:
        """See Format."""
        return _chunk(index, text="", finish_reason=finish_reason)

    def _logprobs(self, index: int, tokens: Sequence[TokenLogprob]) -> Json | None:
        if not self._with_logprobs:
            return None
        offsets = []
        for token in tokens:
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(token.text)
        return {
            "tokens": [t.text for t in tokens],
            "token_logprobs": [_finite(t.logprob) for t in tokens],
            "top_logprobs": [{text: _finite(lp) for text, lp in t.top} for t in tokens],
            "text_offset": offsets,
        }


def usage_body(total: Total) -> Json:
    """`usage`, in tokens."""
    return {
        "prompt_tokens": total.prompt_tokens,
        "completion_tokens": total.completion_tokens,
        "total_tokens": total.prompt_tokens + total.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": total.cached_tokens},
    }


def _fixed(prefix: str, model: str) -> Json:
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}


def _chunk(index: int, **content: Any) -> Json:
    return {"index": index, "logprobs": None, "finish_reason": None} | content


def _token(text: str, logprob: float) -> Json:
    # A token may be half a character, which only its replacement character stands for.
    return {
        "token": text,
        "logprob": _finite(logprob),
        "bytes": list(text.encode("utf-8", "replace")),
    }


def _finite(logprob: float) -> float:
    """JSON has no infinity; OpenAI writes -9999 for a token that cannot be."""
    return logprob if logprob > -9999.0 else -9999.0
