"""The page's routes for looking at tokens: how many there are, which, and what may come next."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from modules.chat.store import MAX_MESSAGE_CHARS, Mode
from modules.context import AppContext
from modules.engine.params import SamplingParams
from modules.engine.protocol import GenerateRequest, NextTokens
from modules.ui.callers import Id, Who
from modules.ui.components.knobs import from_widgets
from modules.ui.streaming import new_request_id

__all__ = ["SHOWN_TOKENS", "add_look_routes"]

SHOWN_TOKENS = 2_000
"""A browser draws this many tokens without a pause."""


class _Text(BaseModel):
    text: Annotated[str, Field(max_length=MAX_MESSAGE_CHARS)]


class _Next(_Text):
    """`plain` continues the text as it stands; otherwise it is a message in the chat `chat`.

    Without one, it is the first of a chat in `mode` with `character`.
    `asker` is one chart in one tab: its newer question takes the place of the older.
    """

    plain: bool
    chat: Id | None = None
    mode: Mode = "instruct"
    character: Annotated[str, Field(max_length=300)] = ""
    values: Annotated[list[Any], Field(max_length=200)]
    count: Annotated[int, Field(ge=1, le=100)] = 14
    asker: Annotated[str, Field(max_length=40)] = ""


def add_look_routes(router: APIRouter, ctx: AppContext) -> None:
    """Everything of the page that shows tokens."""

    @router.post("/look/count")
    async def count(caller: Who, body: _Text) -> dict[str, int]:
        (tokens,) = await ctx.engine.count_tokens([body.text], special_tokens=True)
        info = ctx.engine.state.info
        return {"tokens": tokens, "context": info.context_length if info else 0}

    @router.post("/look/tokens")
    async def tokens(caller: Who, body: _Text) -> dict[str, Any]:
        encoded = await ctx.engine.encode(body.text, special_tokens=True)
        pairs = list(zip(encoded.ids, encoded.texts, strict=True))
        return {"count": len(pairs), "tokens": pairs[-SHOWN_TOKENS:]}

    @router.post("/look/next")
    async def following(caller: Who, body: _Next) -> dict[str, Any]:
        params = from_widgets(body.values)
        if body.plain:
            request = GenerateRequest(new_request_id(), body.text, params)
        else:
            request = await _reply_to(ctx, caller.user, body, params)
        asker = f"{caller.user} {body.asker}" if body.asker else ""
        found = await ctx.engine.next_tokens(NextTokens(request, body.count, asker))
        return {
            "tokens": [dataclasses.asdict(token) for token in found.tokens],
            "kept": found.kept,
            "vocabulary": found.vocabulary,
            "prompt_tokens": found.prompt_tokens,
        }


async def _reply_to(
    ctx: AppContext, user: str, body: _Next, params: SamplingParams
) -> GenerateRequest:
    """What sending the message would ask of the engine; without one, what regenerating would."""
    text = body.text if body.text.strip() else None
    prompt = await ctx.chats.preview(body.chat, user, text, params, body.mode, body.character)
    adapters = (await ctx.chats.chat(body.chat, user)).adapters if body.chat else None
    return GenerateRequest(
        new_request_id(),
        prompt.text,
        params,
        special_tokens=prompt.special_tokens,
        adapters=adapters,
        stop=prompt.stop,
    )
