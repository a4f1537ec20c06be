"""`build_router`: the OpenAI-compatible API over one engine."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from modules.api.errors import ApiError, OpenAIRoute, json_response
from modules.api.formats import ChatFormat, CompletionFormat, Format, usage_body
from modules.api.generation import Job, chat_job, collected, completion_job
from modules.api.requests import Body, ChatBody, CompletionBody, body_of
from modules.api.streaming import EventStream, chunks, while_connected
from modules.chat.template_choice import TemplateChoices
from modules.engine.client import EngineClient

__all__ = ["build_router"]


def build_router(
    engine: EngineClient, api_key: str | None, templates: TemplateChoices
) -> APIRouter:
    """The routes below `/v1`. Without an `api_key` (None or empty) they are open."""

    async def require_key(request: Request) -> None:
        if api_key and not _holds_key(request, api_key):
            raise ApiError(
                "The API key is missing or wrong; send the server's --api-key as "
                "Authorization: Bearer KEY.",
                401,
                code="invalid_api_key",
            )

    router = APIRouter(
        prefix="/v1", route_class=OpenAIRoute, dependencies=[Depends(require_key)], tags=["OpenAI"]
    )
    _add_models(router, engine)
    _add_completions(router, engine, templates)

    @router.api_route(
        "/{path:path}",
        methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        include_in_schema=False,
    )
    async def unknown(request: Request) -> Response:
        raise ApiError(
            f"There is no {request.method} {request.url.path[:100]} here.",
            404,
            code="unknown_url",
        )

    return router


def _add_models(router: APIRouter, engine: EngineClient) -> None:
    started = int(time.time())

    def models() -> list[dict[str, Any]]:
        state = engine.state
        if state.phase != "ready" or state.info is None:
            return []
        return [
            {
                "id": state.info.name,
                "object": "model",
                "created": started,
                "owned_by": "lantern",
                "context_length": state.info.context_length,
            }
        ]

    @router.get("/models")
    async def list_models() -> Response:
        return json_response({"object": "list", "data": models()})

    @router.get("/models/{model:path}")
    async def retrieve_model(model: str) -> Response:
        for loaded in models():
            if loaded["id"] == model:
                return json_response(loaded)
        raise ApiError(
            f"The model {model[:100]!r} is not loaded.", 404, param="model", code="model_not_found"
        )


def _add_completions(router: APIRouter, engine: EngineClient, templates: TemplateChoices) -> None:
    @router.post("/chat/completions")
    async def chat(request: Request) -> Response:
        body = await body_of(request, ChatBody)
        job = await while_connected(request.receive, chat_job(engine, body, templates))
        return await _answered(request, body, job, ChatFormat(job.model, bool(body.logprobs)))

    @router.post("/completions")
    async def complete(request: Request) -> Response:
        body = await body_of(request, CompletionBody)
        job = await while_connected(request.receive, completion_job(engine, body))
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


def _holds_key(request: Request, api_key: str) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    right = secrets.compare_digest(given.strip().encode("latin-1"), api_key.encode())
    return scheme.lower() == "bearer" and right
