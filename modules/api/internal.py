"""`/v1/internal/*`: tokens, the next token's chances and health, as text-generation-webui has them.

Bodies and answers have the keys of that API, so that its clients work; what Lantern adds stands
beside them.
"""

from __future__ import annotations

import dataclasses
import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from modules.api.administration import add_administration
from modules.api.documented import takes
from modules.api.errors import json_response
from modules.api.parameters import sampling_params
from modules.api.requests import body_of
from modules.api.service import Api
from modules.api.streaming import while_connected
from modules.engine.protocol import GenerateRequest, NextTokens
from modules.errors import EngineError

__all__ = ["add_internal"]

_MOST_CHARACTERS = 2**20
_MOST_TOKENS = 2**20

Text = Annotated[str, Field(max_length=_MOST_CHARACTERS)]


class TextBody(BaseModel):
    """A text; `add_special_tokens` are the tokenizer's own, a BOS mostly."""

    model_config = ConfigDict(extra="forbid")

    text: Text
    add_special_tokens: bool = True


class TokensBody(BaseModel):
    """Token ids."""

    model_config = ConfigDict(extra="forbid")

    tokens: list[Annotated[int, Field(ge=0, le=2**31 - 1)]] = Field(max_length=_MOST_TOKENS)


class LogitsBody(BaseModel):
    """A prompt whose next token is asked for; sampling parameters stand beside.

    `use_samplers` tells the chances after these parameters, and otherwise those before.
    """

    model_config = ConfigDict(extra="allow")

    prompt: Text
    use_samplers: bool = False
    top_logits: int = Field(50, ge=1, le=100)


def add_internal(router: APIRouter, api: Api) -> None:
    """Everything below `/internal`."""
    _add_tokens(router, api)
    _add_logits(router, api)
    add_administration(router, api)

    @router.get("/internal/health", summary="Whether the server answers, and the model's state.")
    async def health(request: Request) -> Response:
        return json_response({"status": "ok", "state": api.engine.state.phase})


def _add_tokens(router: APIRouter, api: Api) -> None:
    @router.post("/internal/encode", summary="The tokens of a text.", openapi_extra=takes(TextBody))
    async def encode(request: Request) -> Response:
        body = await body_of(request, TextBody)
        encoded = await api.engine.encode(body.text, body.add_special_tokens)
        found = {"tokens": encoded.ids, "length": len(encoded.ids), "texts": encoded.texts}
        return json_response(found)

    @router.post("/internal/decode", summary="The text of tokens.", openapi_extra=takes(TokensBody))
    async def decode(request: Request) -> Response:
        body = await body_of(request, TokensBody)
        return json_response({"text": await api.engine.decode(body.tokens)})

    @router.post(
        "/internal/token-count",
        summary="How many tokens a text has.",
        openapi_extra=takes(TextBody),
    )
    async def count(request: Request) -> Response:
        body = await body_of(request, TextBody)
        (length,) = await api.engine.count_tokens([body.text], body.add_special_tokens)
        return json_response({"length": length})


def _add_logits(router: APIRouter, api: Api) -> None:
    @router.post(
        "/internal/logits",
        summary="What the next token may be, and how likely each is.",
        openapi_extra=takes(LogitsBody),
    )
    async def logits(request: Request) -> Response:
        body = await body_of(request, LogitsBody)
        return json_response(await while_connected(request.receive, _next_tokens(api, body)))


async def _next_tokens(api: Api, body: LogitsBody) -> dict[str, Any]:
    """`logits` are probabilities by text, the likeliest first; `tokens` have both kinds."""
    asked = GenerateRequest(uuid.uuid4().hex, body.prompt, sampling_params(body))
    found = await api.engine.next_tokens(NextTokens(asked, body.top_logits))
    kind = "after" if body.use_samplers else "before"
    if any(getattr(token, kind) is None for token in found.tokens):
        raise EngineError(
            "The server that has the model does not tell what the parameters make of it.",
            "Leave use_samplers out.",
        )
    chances: dict[str, float] = {}
    for token in sorted(found.tokens, key=lambda token: -getattr(token, kind)):
        if getattr(token, kind) > 0:
            # Two tokens may look alike; the likelier one came first.
            chances.setdefault(token.text, getattr(token, kind))
    return {
        "logits": chances,
        "tokens": [dataclasses.asdict(token) for token in found.tokens],
        "kept": found.kept,
        "vocabulary": found.vocabulary,
        "prompt_tokens": found.prompt_tokens,
    }
