"""What the API shows beside `/v1`: its figures for Prometheus, and its description."""

from __future__ import annotations

import html
import json
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from modules.api.administration import AdaptersBody, LoadModelBody
from modules.api.anthropic_requests import CountBody, MessagesBody
from modules.api.documented import SCHEMAS
from modules.api.embeddings import EmbeddingsBody
from modules.api.errors import json_response, route_class
from modules.api.internal import LogitsBody, TextBody, TokensBody
from modules.api.metrics import metrics_text
from modules.api.requests import ChatBody, CompletionBody
from modules.api.router import build_router
from modules.api.service import Api

__all__ = ["build_pages", "openapi_document"]

_BODIES = (
    ChatBody, CompletionBody, EmbeddingsBody, MessagesBody, CountBody, TextBody, TokensBody,
    LogitsBody, LoadModelBody, AdaptersBody,
)  # fmt: skip
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem}"
    "summary{cursor:pointer;padding:.4rem 0}pre{overflow:auto;font-size:.85rem}"
    ":root{color-scheme:light dark}"
)


def build_pages(api: Api) -> APIRouter:
    """`/metrics` for the owner and for those with a key, `/docs` for the owner."""
    router = APIRouter(route_class=route_class(api.meters), include_in_schema=False)

    @router.get("/metrics")
    async def metrics(request: Request) -> Response:
        api.keys.require_owner_or_key(request)
        return Response(metrics_text(api), media_type="text/plain; version=0.0.4")

    @router.get("/openapi.json")
    async def document(request: Request) -> Response:
        api.keys.require_owner(request)
        return json_response(openapi_document(api))

    @router.get("/docs")
    async def docs(request: Request) -> Response:
        api.keys.require_owner(request)
        # Without a script, and nothing from elsewhere: it is read offline as well.
        policy = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
        page = _page(openapi_document(api))
        return Response(page, headers=policy, media_type="text/html; charset=utf-8")

    return router


def openapi_document(api: Api) -> dict[str, Any]:
    """The API as OpenAPI describes one."""
    document: dict[str, Any] = get_openapi(
        title="Lantern",
        version="1",
        description="Keys are sent as Authorization: Bearer KEY. Sampling parameters of the "
        "Parameters tab are options of the same name.",
        routes=build_router(api).routes,
    )
    _, schemas = models_json_schema(
        [(body, "validation") for body in _BODIES], ref_template=SCHEMAS
    )
    document.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
    return document


def _page(document: dict[str, Any]) -> str:
    """The document for people: a line for each route, and its body where it is opened."""
    rows = []
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            line = f"<code>{method.upper()} {html.escape(path)}</code> "
            line += html.escape(route.get("summary", ""))
            content = route.get("requestBody", {}).get("content", {})
            name = content.get("application/json", {}).get("schema", {}).get("$ref", "")
            schema = document["components"]["schemas"].get(name.rpartition("/")[2])
            if schema:
                body = html.escape(json.dumps(schema, indent=2))
                rows.append(f"<details><summary>{line}</summary><pre>{body}</pre></details>")
            else:
                rows.append(f"<p>{line}</p>")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Lantern: the API</title>'
        f"<style>{_STYLE}</style><h1>The API</h1><p>{html.escape(document['info']['description'])}"
        ' The same for programs: <a href="openapi.json">openapi.json</a>.</p>'
        f"{''.join(rows)}</html>"
    )
