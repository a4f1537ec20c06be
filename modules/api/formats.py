"""The two forms in which OpenAI's API writes a reply: chat, and plain completion."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

from modules.api.generation import Job, Reply, Total
from modules.chat.messages import ToolCall
from modules.chat.tool_calls import CallReader
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

    def delta(self, index: int, text: str, logprobs: Sequence[TokenLogprob]) -> list[Json]:
        """New text of a streamed choice, which may wait for what comes next."""
        ...

    def closing(self, index: int, finish_reason: str) -> list[Json]:
        """The end of a streamed choice, after what waited."""
        ...


class ChatFormat:
    """`chat.completion` and its chunks, with the calls of tools where there are any."""

    def __init__(self, job: Job, with_logprobs: bool) -> None:
        self._fixed = _fixed("chatcmpl", job.model)
        self._with_logprobs = with_logprobs
        self._tools = job.tools
        self._readers: dict[int, CallReader] = {}
        self._sent: Counter[int] = Counter()

    def envelope(self, streamed: bool) -> Json:
        """See Format."""
        return self._fixed | {"object": "chat.completion.chunk" if streamed else "chat.completion"}

    def whole(self, index: int, reply: Reply) -> Json:
        """See Format."""
        message: Json = {"role": "assistant", "content": reply.text, "refusal": None}
        reason = reply.finish_reason
        if self._tools.offered:
            text, calls = self._tools.read(reply.text)
            if calls:
                message |= {"content": text.strip() or None}
                message["tool_calls"] = [_tool_call(call) for call in calls]
                reason = "tool_calls"
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(reply.logprobs),
            "finish_reason": reason,
        }

    def opening(self, index: int) -> Json | None:
        """See Format."""
        return _chunk(index, delta={"role": "assistant", "content": ""})

    def delta(self, index: int, text: str, logprobs: Sequence[TokenLogprob]) -> list[Json]:
        """See Format."""
        written = self._logprobs(logprobs)
        if not self._tools.offered:
            return [_chunk(index, delta={"content": text}, logprobs=written)]
        reader = self._readers.setdefault(index, self._tools.reader())
        shown = reader.push(text)
        chunks = [_chunk(index, delta={"content": shown}, logprobs=written)]
        return (chunks if shown or written else []) + self._calls(index, reader)

    def closing(self, index: int, finish_reason: str) -> list[Json]:
        """See Format."""
        reader = self._readers.get(index)
        if reader is None:
            return [_chunk(index, delta={}, finish_reason=finish_reason)]
        rest = reader.finish()
        chunks = [_chunk(index, delta={"content": rest})] if rest else []
        chunks += self._calls(index, reader)
        reason = "tool_calls" if reader.calls else finish_reason
        return [*chunks, _chunk(index, delta={}, finish_reason=reason)]

    def _calls(self, index: int, reader: CallReader) -> list[Json]:
        """The calls that are new: each one's name in a chunk, and its arguments in another."""
        chunks = []
        for place, call in [*enumerate(reader.calls)][self._sent[index] :]:
            whole = _tool_call(call)
            begun = whole | {"index": place, "function": whole["function"] | {"arguments": ""}}
            rest = {"index": place, "function": {"arguments": call.arguments}}
            chunks += [_chunk(index, delta={"tool_calls": [part]}) for part in (begun, rest)]
        self._sent[index] = len(reader.calls)
        return chunks

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
        (written,) = self.delta(index, reply.text, reply.logprobs)
        return written | {"finish_reason": reply.finish_reason}

    def opening(self, index: int) -> Json | None:
        """See Format."""
        return None

    def delta(self, index: int, text: str, logprobs: Sequence[TokenLogprob]) -> list[Json]:
        """See Format."""
        return [_chunk(index, text=text, logprobs=self._logprobs(index, logprobs))]

    def closing(self, index: int, finish_reason: str) -> list[Json]:
        """See Format."""
        return [_chunk(index, text="", finish_reason=finish_reason)]

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


def _tool_call(call: ToolCall) -> Json:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


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
