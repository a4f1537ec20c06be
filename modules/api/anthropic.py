"""Anthropic's way of writing a reply, over the same generation."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from modules.api.anthropic_requests import CountBody, Json, MessagesBody, as_chat
from modules.api.documented import takes
from modules.api.errors import ApiError, as_api_error, json_response, route_class
from modules.api.generation import Job, Total, chat_job, collected, finish_reason, pieces
from modules.api.requests import body_of
from modules.api.service import Api
from modules.api.streaming import EventStream, event, while_connected
from modules.chat.messages import ToolCall
from modules.engine.protocol import Finished

__all__ = ["add_anthropic", "anthropic_error"]

_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
}
_REASONS = {"stop": "end_turn", "length": "max_tokens"}


def anthropic_error(error: ApiError) -> Json:
    """`{"type": "error", …}` as Anthropic's clients read it."""
    kind = "api_error" if error.status >= 500 else "invalid_request_error"
    return {
        "type": "error",
        "error": {"type": _KINDS.get(error.status, kind), "message": error.message},
    }


def add_anthropic(router: APIRouter, api: Api) -> None:
    """`/messages`, and the count of what it would read."""

    async def messages(request: Request) -> Response:
        body = await body_of(request, MessagesBody)
        job = await while_connected(request.receive, _job(api, body))
        if body.stream:
            stream = _events(job)
            first = await while_connected(request.receive, _next(stream))
            return EventStream(first, stream)
        (reply,), total = await while_connected(request.receive, collected(job))
        text, calls = job.tools.read(reply.text) if job.tools.offered else (reply.text, [])
        ending = _ending(reply.finish_reason, calls)
        return json_response(
            _message(job) | ending | {"content": _blocks(text, calls), "usage": _usage(total)}
        )

    async def count(request: Request) -> Response:
        body = await body_of(request, CountBody)
        job = await while_connected(request.receive, _job(api, body))
        return json_response({"input_tokens": job.prompt_tokens})

    own = route_class(api.meters, anthropic_error)
    routes: tuple[tuple[str, Any, type[CountBody], str], ...] = (
        ("/messages", messages, MessagesBody, "A reply, in Anthropic's form."),
        ("/messages/count_tokens", count, CountBody, "How many tokens a conversation has."),
    )
    for path, handler, body, summary in routes:
        router.add_api_route(
            path,
            handler,
            methods=["POST"],
            summary=summary,
            tags=["Anthropic"],
            openapi_extra=takes(body),
            route_class_override=own,
        )


async def _job(api: Api, body: CountBody) -> Job:
    try:
        chat = as_chat(body)
    except ValidationError as error:
        raise ApiError(f"{error.errors()[0]['msg'].rstrip('.')}.") from None
    begun = chat.messages[-1].role == "assistant"
    return await chat_job(api.engine, chat, api.templates, continue_final=begun)


def _message(job: Job) -> Json:
    return {
        "id": f"msg_{uuid.uuid4().hex}",
        "type": "message",
        "role": "assistant",
        "model": job.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _ending(reason: str, calls: Sequence[ToolCall]) -> Json:
    # The engine does not say whether it was a stop sequence that ended a reply.
    stop_reason = "tool_use" if calls else _REASONS[reason]
    return {"stop_reason": stop_reason, "stop_sequence": None}


def _usage(total: Total) -> Json:
    return {
        "input_tokens": total.prompt_tokens - total.cached_tokens,
        "cache_read_input_tokens": total.cached_tokens,
        "cache_creation_input_tokens": 0,
        "output_tokens": total.completion_tokens,
    }


def _blocks(text: str, calls: Sequence[ToolCall]) -> list[Json]:
    text = text.strip() if calls else text
    blocks = [{"type": "text", "text": text}] if text or not calls else []
    return blocks + [_tool_use(call) | {"input": json.loads(call.arguments)} for call in calls]


def _tool_use(call: ToolCall) -> Json:
    return {"type": "tool_use", "id": f"toolu_{call.id}", "name": call.name, "input": {}}


async def _events(job: Job) -> AsyncGenerator[str, None]:
    """The events of one reply. A failure before the first is raised, a later one an event."""
    begun = False
    writer, total = _Writer(job), Total(job)
    try:
        async with aclosing(pieces(job)) as stream:
            async for piece in stream:
                if not begun:
                    yield writer.opening()
                    begun = True
                if isinstance(piece.item, Finished):
                    total.add(piece.index, piece.item)
                    for text in writer.closing(finish_reason(piece.item), total):
                        yield text
                else:
                    for text in writer.delta(piece.item.text):
                        yield text
    except Exception as failure:  # the handler boundary, once the status is sent
        if not begun:
            raise
        yield event(json.dumps(anthropic_error(as_api_error(failure))), "error")


class _Writer:
    """One streamed reply: blocks that are opened, filled and closed, one after the other."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._reader = job.tools.reader() if job.tools.offered else None
        self._blocks = 0
        self._in_text = False
        self._calls = 0

    def opening(self) -> str:
        """What a reply begins with."""
        usage = {"input_tokens": self._job.prompt_tokens, "output_tokens": 0}
        return _event("message_start", message=_message(self._job) | {"usage": usage})

    def delta(self, text: str) -> Iterator[str]:
        """New text of the model."""
        shown = self._reader.push(text) if self._reader else text
        yield from self._text(shown)
        yield from self._new_calls()

    def closing(self, reason: str, total: Total) -> Iterator[str]:
        """The end of the reply, after what waited."""
        if self._reader:
            yield from self._text(self._reader.finish())
            yield from self._new_calls()
        yield from self._end_text()
        ending = _ending(reason, self._reader.calls if self._reader else [])
        yield _event("message_delta", delta=ending, usage=_usage(total))
        yield _event("message_stop")

    def _text(self, text: str) -> Iterator[str]:
        # White space before a call is no block of its own.
        if not text or (not self._in_text and self._reader and not text.strip()):
            return
        if not self._in_text:
            self._in_text = True
            yield self._start({"type": "text", "text": ""})
        yield self._fill({"type": "text_delta", "text": text})

    def _end_text(self) -> Iterator[str]:
        if self._in_text:
            self._in_text = False
            yield self._stop()

    def _new_calls(self) -> Iterator[str]:
        for call in self._reader.calls[self._calls :] if self._reader else []:
            yield from self._end_text()
            self._calls += 1
            yield self._start(_tool_use(call))
            yield self._fill({"type": "input_json_delta", "partial_json": call.arguments})
            yield self._stop()

    def _start(self, block: Json) -> str:
        return _event("content_block_start", index=self._blocks, content_block=block)

    def _fill(self, delta: Json) -> str:
        return _event("content_block_delta", index=self._blocks, delta=delta)

    def _stop(self) -> str:
        self._blocks += 1
        return _event("content_block_stop", index=self._blocks - 1)


def _event(name: str, **content: Any) -> str:
    return event(json.dumps({"type": name} | content), name)


async def _next(stream: AsyncGenerator[str, None]) -> str:
    return await anext(stream)
