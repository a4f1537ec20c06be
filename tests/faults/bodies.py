"""Requests to every route of the API and of the page, made from what the application declares.

Nothing is listed here: the schemas are those that FastAPI derives from the routes, so that a new
route is tried as soon as it is there.
"""

from __future__ import annotations

import copy
import json
import random
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from modules.context import AppContext
from modules.engine.params import SamplingParams
from modules.ui.components.knobs import to_widgets
from modules.ui.routes import build_routes

__all__ = ["Operation", "Request", "mutated", "operations", "sane", "texts_replaced"]

Schema = Mapping[str, Any]
VALUES = to_widgets(SamplingParams(max_new_tokens=20))
WORDS = ("Tiny", "tiny-lora", "Mine", "Mia", "x", "user", "", "What is this?", "mine.jsonl")
ENDLESS = "/page/events"
"""A stream that ends with its tab."""

Draw = random.Random


@dataclass(frozen=True)
class Operation:
    """What can be asked for: a method, a path with places for values, and the schemas of these."""

    method: str
    path: str
    places: Mapping[str, Schema]
    query: Mapping[str, Schema]
    body: Schema | None
    raw: bool
    schemas: Schema = field(repr=False)


@dataclass(frozen=True)
class Request:
    """One request as it is sent."""

    operation: Operation
    url: str
    content: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": "application/json"})


def operations(api: Schema, ctx: AppContext) -> list[Operation]:
    """Everything below /v1 and /page; `api` is what /openapi.json says."""
    router = build_routes(ctx)
    page = [route for route in router.routes if isinstance(route, APIRoute)]
    for route in page:
        route.include_in_schema = True
    described = (api, get_openapi(title="Page", version="1", routes=page))
    found = [one for document in described for one in _operations(document)]
    return [one for one in found if one.path != ENDLESS]


def _operations(document: Schema) -> Iterator[Operation]:
    for path, item in document["paths"].items():
        for method, about in item.items():
            given = about.get("parameters", [])
            content = about.get("requestBody", {}).get("content", {})
            yield Operation(
                method.upper(),
                path,
                {p["name"]: p["schema"] for p in given if p["in"] == "path"},
                {p["name"]: p["schema"] for p in given if p["in"] == "query"},
                content.get("application/json", {}).get("schema"),
                method == "post" and not content,
                document.get("components", {}).get("schemas", {}),
            )


# -- requests that fit ---------------------------------------------------------------------------


def sane(operation: Operation, draw: Draw) -> Request:
    """A request by the schemas, with names of things that are there and of things that are not."""
    body = None if operation.body is None else made(operation, operation.body, draw)
    content = b"{}" if operation.raw else b"" if body is None else encoded(body)
    return Request(operation, _url(operation, draw), content)


def _url(operation: Operation, draw: Draw, text: Callable[[], str] | None = None) -> str:
    url = operation.path
    for name, schema in operation.places.items():
        url = url.replace(f"{{{name}}}", _in_path(_value(operation, name, schema, draw, text)))
    query = {
        name: str(_value(operation, name, schema, draw, text))
        for name, schema in operation.query.items()
    }
    return f"{url}?{urlencode(query, errors='replace')}" if query else url


def _value(
    operation: Operation, name: str, schema: Schema, draw: Draw, text: Callable[[], str] | None
) -> Any:
    if text is not None and schema.get("type") == "string" and "enum" not in schema:
        return text()
    return made(operation, schema, draw, name)


def _in_path(value: Any) -> str:
    return quote(str(value).encode("utf-8", "replace"), safe="") or "x"


def encoded(body: Any) -> bytes:
    """JSON as Python writes it: NaN, Infinity and half characters go through."""
    return json.dumps(body).encode("utf-8", "surrogatepass")


def made(operation: Operation, schema: Schema, draw: Draw, name: str = "") -> Any:
    """Something that fits a schema."""
    schema = _resolved(operation, schema)
    if name == "values":
        return list(VALUES)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return draw.choice(schema["enum"])
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return made(operation, draw.choice(schema[several]), draw, name)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = draw.choice(kind)
    if kind == "object" or "properties" in schema:
        return _made_object(operation, schema, draw)
    if kind == "array":
        items = schema.get("prefixItems") or [schema.get("items", {})] * draw.randint(0, 2)
        return [made(operation, one, draw) for one in items]
    if kind in ("integer", "number"):
        low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
        number = low + draw.choice((0, 1, 2))
        return min(number, schema.get("maximum", number))
    if kind == "boolean":
        return draw.random() < 0.5
    return draw.choice(WORDS) if kind == "string" else draw.choice((*WORDS, 1, None, {}, []))


def _made_object(operation: Operation, schema: Schema, draw: Draw) -> dict[str, Any]:
    needed = schema.get("required", ())
    body = {
        name: made(operation, one, draw, name)
        for name, one in schema.get("properties", {}).items()
        if name in needed or draw.random() < 0.5
    }
    more = schema.get("additionalProperties")
    if isinstance(more, dict):
        body |= {draw.choice(WORDS): made(operation, more, draw) for _ in range(draw.randint(0, 2))}
    return body


def _resolved(operation: Operation, schema: Schema) -> Schema:
    while "$ref" in schema:
        schema = operation.schemas[schema["$ref"].rpartition("/")[2]]
    return schema


# -- requests that do not ------------------------------------------------------------------------

_DEEP: Any = 0
for _ in range(60):
    _DEEP = [_DEEP]

JUNK: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 2**31, 2**53 + 1, 2**63, -(2**70), 10**400, 0.5, 1e308,
    float("nan"), float("inf"), "", "\x00", "\ud800", "é" * 300, "x" * 5000, "../../etc/passwd",
    "{{ 1 }}", "' OR 1=1 --", "<script>", "2026-13-45", [], {}, [None], [[]], [{}], {"": None},
    {"x": {"x": {"x": []}}}, ["x"] * 2000, _DEEP, "\r\nx: y", "1", "true", [1, "x", None, {}],
)  # fmt: skip
TAILS = (b"", b"}", b"\xff\xfe", b"\x00", b',"x":', b"//")
KINDS = ("application/json", "text/plain", "multipart/form-data; boundary=x", "", "application/xml")
ODD_PARTS = ("0", "-1", "1.5", "abc", "9" * 40, "1%00", "%2e%2e%2f", "%ff", "1%0a", "null", "١")  # noqa: RUF001


def _junk(draw: Draw) -> Any:
    return copy.deepcopy(draw.choice(JUNK))


def mutated(operation: Operation, draw: Draw) -> Request:
    """A request with one to three faults in it."""
    request = sane(operation, draw)
    body = json.loads(request.content) if request.content not in (b"", b"{}") else {}
    for _ in range(draw.randint(1, 3)):
        body = _damaged(body, draw)
    content, url, kind = encoded(body), request.url, KINDS[0]
    match draw.randrange(12):
        case 0:
            content = content[: draw.randint(0, len(content))] + draw.choice(TAILS)
        case 1:
            content = bytes(draw.randrange(256) for _ in range(draw.randint(0, 80)))
        case 2:
            kind = draw.choice(KINDS)
        case 3 | 4 if operation.places:
            name = draw.choice(list(operation.places))
            url = operation.path.replace(f"{{{name}}}", draw.choice(ODD_PARTS))
            url = url.replace("{", "").replace("}", "")
        case 5 if operation.query:
            name = draw.choice(list(operation.query))
            url = f"{url.partition('?')[0]}?{name}={draw.choice(ODD_PARTS)}&{name}=x&=&%"
    return Request(operation, url, content, {"content-type": kind} if kind else {})


def _damaged(body: Any, draw: Draw) -> Any:
    """The same with one thing in it replaced, left out, added or wrapped."""
    places = list(_places(body))
    if not places or draw.random() < 0.1:
        return _junk(draw)
    holder, key = draw.choice(places)
    match draw.randrange(8):
        case 0 if isinstance(holder, dict):
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[draw.choice((*string.ascii_lowercase, "__proto__", ""))] = _junk(draw)
        case 2:
            holder[key] = [holder[key], copy.deepcopy(holder[key])]
        case 3:
            holder[key] = {"x": holder[key]}
        case _:
            holder[key] = _junk(draw)
    return body


def _places(body: Any) -> Iterator[tuple[Any, Any]]:
    listed = enumerate(body) if isinstance(body, list) else ()
    for key, value in body.items() if isinstance(body, dict) else listed:
        yield body, key
        yield from _places(value)


# -- requests with one text everywhere -----------------------------------------------------------


def texts_replaced(operation: Operation, text: str, draw: Draw) -> Request | None:
    """A request that fits, with `text` for every text in it; None where there is no place."""
    body = None if operation.body is None else made(operation, operation.body, draw)
    changed = _replaced(body, text)
    url = _url(operation, draw, lambda: text)
    plain = [p for p in (*operation.places.values(), *operation.query.values())
             if p.get("type") == "string" and "enum" not in p]  # fmt: skip
    if changed == body and not plain:
        return None
    content = b"{}" if operation.raw else b"" if body is None else encoded(changed)
    return Request(operation, url, content)


def _replaced(body: Any, text: str) -> Any:
    if isinstance(body, str):
        return text
    if isinstance(body, dict):
        return {key: one if key == "values" else _replaced(one, text) for key, one in body.items()}
    return [_replaced(one, text) for one in body] if isinstance(body, list) else body
