"""Server-sent events, and an end to the work as soon as the client is gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from modules.api.errors import as_api_error, error_body
from modules.api.formats import Format, usage_body
from modules.api.generation import Job, Total, finish_reason, pieces
from modules.engine.protocol import Finished

__all__ = ["EventStream", "chunks", "event", "while_connected"]

Result = TypeVar("Result")


async def chunks(job: Job, form: Format, include_usage: bool) -> AsyncGenerator[str, None]:
    """The events of a reply, mostly one for each chunk that the engine sends; then `[DONE]`.

    A failure before the first chunk is raised, for it can still have a status of its own;
    a later one becomes the last chunk.
    """
    envelope = form.envelope(streamed=True) | ({"usage": None} if include_usage else {})
    total = Total(job)
    opened = -1
    try:
        async with aclosing(pieces(job)) as stream:
            async for piece in stream:
                if piece.index > opened:
                    if (opening := form.opening(piece.index)) is not None:
                        yield event(json.dumps(envelope | {"choices": [opening]}))
                    opened = piece.index
                if isinstance(piece.item, Finished):
                    total.add(piece.index, piece.item)
                    choices = form.closing(piece.index, finish_reason(piece.item))
                else:
                    choices = form.delta(piece.index, piece.item.text, piece.item.logprobs)
                for choice in choices:
                    yield event(json.dumps(envelope | {"choices": [choice]}))
        if include_usage:
            yield event(json.dumps(envelope | {"choices": [], "usage": usage_body(total)}))
        yield event("[DONE]")
    except Exception as failure:  # the handler boundary, once the status is sent
        if opened < 0:
            raise
        yield event(json.dumps(error_body(as_api_error(failure))))


class EventStream(Response):
    """Sends the events `first` and `rest`; closes `rest` when the client is gone."""

    media_type = "text/event-stream"

    def __init__(self, first: str, rest: AsyncGenerator[str, None]) -> None:
        # Without the base class's, which would announce an empty body.
        self.status_code = 200
        self.background = None
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no"})
        self._first = first
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, or as much as the client waits for."""
        async with aclosing(self._rest):
            try:
                await while_connected(receive, self._send(send))
            except (ClientDisconnect, OSError):
                return

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        await send(_part(self._first))
        async for text in self._rest:
            await send(_part(text))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def event(data: str, name: str = "") -> str:
    """An event as it is sent; `data` is one line."""
    return (f"event: {name}\n" if name else "") + f"data: {data}\n\n"


def _part(text: str) -> dict[str, Any]:
    return {"type": "http.response.body", "body": text.encode(), "more_body": True}


async def while_connected(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which is cancelled when the client goes away.

    The body of the request must have been read. Raises ClientDisconnect.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
