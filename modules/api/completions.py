"""The two routes of OpenAI's that write: chat, and plain completion."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from fastapi import APIRouter, Request, Response

from modules.api.documented import takes
from modules.api.errors import json_response
from modules.api.formats import ChatFormat, CompletionFormat, Format, usage_body
from modules.api.generation import Job, chat_job, collected, completion_job
from modules.api.requests import Body, ChatBody, CompletionBody, body_of
from modules.api.service import Api
from modules.api.streaming import EventStream, chunks, while_connected

__all__ = ["add_completions"]


def add_completions(router: APIRouter, api: Api) -> None:
    """Chat, and plain completion."""

    @router.post("/chat/completions", summary="The reply in a chat.", openapi_extra=takes(ChatBody))
    async def chat(request: Request) -> Response:
        body = await body_of(request, ChatBody)
        job = await while_connected(request.receive, chat_job(api.engine, body, api.templates))
        return await _answered(request, body, job, ChatFormat(job, bool(body.logprobs)))

    @router.post("/completions", summary="A text, continued.", openapi_extra=takes(CompletionBody))
    async def complete(request: Request) -> Response:
        body = await body_of(request, CompletionBody)
        job = await while_connected(request.receive, completion_job(api.engine, body))
        form = CompletionFormat(job.model, body.logprobs is not None)
        return await _answered(request, body, job, form)


async def _answered(request: Request, body: Body, job: Job, form: Format) -> Response:
    if body.stream:
        stream = chunks(job, form, body.include_usage)
        # The first chunk before the status: a failure until then is no 200.
        first = await while_connected(request.receive, _next(stream))
        return EventStream(first, stream)
    replies, total = await while_connected(request.receive, collected(job))
    choices = [form.whole(index, reply) for index, reply in enumerate(replies)]
    return json_response(
        form.envelope(streamed=False) | {"choices": choices, "usage": usage_body(total)}
    )


async def _next(stream: AsyncGenerator[str, None]) -> str:
    return await anext(stream)
