"""`build_router`: every route of the HTTP API."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from modules.api.anthropic import add_anthropic
from modules.api.completions import add_completions
from modules.api.embeddings import add_embeddings
from modules.api.errors import ApiError, json_response, route_class
from modules.api.internal import add_internal
from modules.api.service import Api

__all__ = ["build_router"]


def build_router(api: Api) -> APIRouter:
    """The routes below `/v1`. Without an API key they are open to whoever was let in."""

    async def require_key(request: Request) -> None:
        api.keys.require(request)

    router = APIRouter(
        prefix="/v1",
        route_class=route_class(api.meters),
        dependencies=[Depends(require_key)],
        tags=["OpenAI"],
    )
    _add_models(router, api)
    add_completions(router, api)
    add_embeddings(router, api)
    add_anthropic(router, api)
    add_internal(router, api)

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


def _add_models(router: APIRouter, api: Api) -> None:
    started = int(time.time())

    def models() -> list[dict[str, Any]]:
        state = api.engine.state
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

    @router.get("/models", summary="The model that is loaded.")
    async def list_models() -> Response:
        return json_response({"object": "list", "data": models()})

    @router.get("/models/{model:path}", summary="Whether a model is loaded.")
    async def retrieve_model(model: str) -> Response:
        for loaded in models():
            if loaded["id"] == model:
                return json_response(loaded)
        raise ApiError(
            f"The model {model[:100]!r} is not loaded.", 404, param="model", code="model_not_found"
        )
