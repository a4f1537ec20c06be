"""The page's routes for pins, and for what made a reply."""

from __future__ import annotations

import dataclasses
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from modules.chat.about import params_of
from modules.chat.replays import Origin
from modules.context import AppContext
from modules.engine.params import SamplingParams, knobs
from modules.errors import InvalidInputError
from modules.ui.callers import Id, Who
from modules.ui.components.knobs import neutral_values, to_widgets

__all__ = ["add_reply_routes", "origin_json"]


class _Pin(BaseModel):
    pinned: bool = True


def add_reply_routes(router: APIRouter, ctx: AppContext) -> None:
    """Pin, tell, replay."""
    chats = ctx.chats
    place = "/chats/{chat}/messages/{message}"

    @router.post(place + "/pin")
    async def pin(caller: Who, chat: Id, message: Id, body: _Pin) -> None:
        await chats.pin(chat, caller.user, message, body.pinned)

    @router.get(place + "/about")
    async def about(caller: Who, chat: Id, message: Id) -> dict[str, Any]:
        return origin_json(await chats.replays.origin(chat, caller.user, message))

    @router.get(place + "/prompt")
    async def prompt(caller: Who, chat: Id, message: Id) -> dict[str, Any]:
        return dataclasses.asdict(await chats.replays.prompt(chat, caller.user, message))

    @router.post(place + "/replay")
    async def replay(caller: Who, chat: Id, message: Id) -> dict[str, int]:
        return {"message": await chats.replays.replay(chat, caller.user, message)}


def origin_json(origin: Origin) -> dict[str, Any]:
    """What a reply was made of, as the page shows it.

    `parameters` are those that are not neutral; `values` is what their widgets show.
    """
    message = origin.message
    try:
        params = params_of(message.about)
    except InvalidInputError as error:
        return {"about": message.about, "problem": str(error)}
    return {
        "about": message.about,
        "state": message.state,
        "at": message.created_at,
        "parameters": _altered(params),
        "values": dict(zip(knobs(), to_widgets(params), strict=True)),
        "differences": origin.differences,
        "comparison": origin.comparison and dataclasses.asdict(origin.comparison),
    }


def _altered(params: SamplingParams) -> list[dict[str, Any]]:
    shown = zip(knobs().items(), to_widgets(params), neutral_values(), strict=True)
    return [
        {"label": knob.label, "value": value, "neutral": neutral}
        for (name, knob), value, neutral in shown
        if value != neutral and name != "seed"
    ]
