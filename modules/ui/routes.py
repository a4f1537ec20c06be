"""The page's own routes: one stream that tells a tab what to show, and what it may do.

Every handler asks who is calling; a chat is reached only through its owner.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from modules.access import Caller
from modules.chat.store import MAX_MESSAGE_CHARS, Mode
from modules.chat.stores import is_incognito
from modules.context import AppContext
from modules.errors import ForbiddenError, LanternError, NotFoundError
from modules.signals import first_change
from modules.ui import models
from modules.ui.attachment_routes import add_attachment_routes
from modules.ui.callers import Id, Who
from modules.ui.character_routes import add_character_routes
from modules.ui.components.knobs import from_widgets
from modules.ui.downloads import downloads_json
from modules.ui.extension_list import brief_json as extensions_json
from modules.ui.extension_routes import add_extension_routes
from modules.ui.extension_widgets import ExtensionWidgets
from modules.ui.feed import WINDOW, ChatFeed
from modules.ui.library_routes import add_library_routes
from modules.ui.look_routes import add_look_routes
from modules.ui.model_routes import add_model_routes
from modules.ui.preset_routes import add_preset_routes
from modules.ui.reply_routes import add_reply_routes
from modules.ui.session_routes import add_session_routes
from modules.ui.tool_routes import add_tool_routes
from modules.ui.training import brief_json
from modules.ui.training_merge import merges_json
from modules.ui.training_routes import add_training_routes
from modules.ui.writing_routes import add_writing_routes

__all__ = ["STATIC", "add_routes", "build_routes"]

STATIC = Path(__file__).parent / "static"

_PACE_S = 0.04
"""The least time between two updates of a tab: 25 a second are smooth to read."""
_KEEP_ALIVE_S = 15.0

Text = Annotated[str, Field(max_length=MAX_MESSAGE_CHARS)]
Values = Annotated[list[Any], Field(max_length=200)]


class _Values(BaseModel):
    values: Values


class _Answer(_Values):
    """`beginning` is what the reply starts with."""

    beginning: Text = ""


class _Send(_Answer):
    text: Text


class _Edit(BaseModel):
    text: Text
    values: Values | None = None
    beginning: Text = ""


class _Text(BaseModel):
    text: Text


class _Adapters(BaseModel):
    """Names with weights; null follows what is applied to all chats."""

    adapters: list[tuple[Annotated[str, Field(max_length=300)], float]] | None = Field(
        None, max_length=100
    )


class _Fresh(BaseModel):
    """What a chat that is not made yet will be made with."""

    mode: Mode = "instruct"
    character: Annotated[str, Field(max_length=300)] = ""
    incognito: bool = False


class _Mode(BaseModel):
    mode: Mode


class _Preview(BaseModel):
    chat: Id | None = None
    fresh: _Fresh = _Fresh()
    text: Text
    values: Values


def add_routes(app: FastAPI, ctx: AppContext, widgets: ExtensionWidgets | None = None) -> None:
    """Everything below /page, and how its errors are answered.

    `widgets` are those of extensions that the page was built with; none without.
    """
    app.include_router(build_routes(ctx, widgets))
    app.add_exception_handler(LanternError, _lantern_error)
    app.add_exception_handler(RequestValidationError, _bad_request)
    app.add_exception_handler(HTTPException, _http_error)


async def _lantern_error(request: Request, error: Exception) -> JSONResponse:
    """Answer a `LanternError` with its message and remedy."""
    assert isinstance(error, LanternError)
    status = {NotFoundError: 404, ForbiddenError: 403}.get(type(error), 400)
    return JSONResponse({"message": error.message, "remedy": error.remedy}, status)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    """Answer what the framework refuses: an unknown address, a body that is no text."""
    assert isinstance(error, HTTPException)
    body = {"message": f"{error.detail}.", "remedy": "Reload the page."}
    return JSONResponse(body, error.status_code, headers=error.headers)


async def _bad_request(request: Request, error: Exception) -> JSONResponse:
    """Answer a body that does not fit, without repeating it."""
    assert isinstance(error, RequestValidationError)
    place = ".".join(str(part) for part in error.errors()[0]["loc"][1:2])
    where = f" at {place!r}" if place else ""
    body = {"message": f"The request does not fit{where}.", "remedy": "Reload the page."}
    return JSONResponse(body, 400)


def build_routes(ctx: AppContext, widgets: ExtensionWidgets | None = None) -> APIRouter:
    """All routes below /page."""
    router = APIRouter(prefix="/page", include_in_schema=False)
    _add_stream(router, ctx)
    _add_chat_routes(router, ctx)
    _add_message_routes(router, ctx)
    add_model_routes(router, ctx)
    add_training_routes(router, ctx)
    add_preset_routes(router, ctx)
    add_library_routes(router, ctx)
    add_attachment_routes(router, ctx)
    add_reply_routes(router, ctx)
    add_tool_routes(router, ctx)
    add_character_routes(router, ctx)
    add_look_routes(router, ctx)
    add_writing_routes(router, ctx)
    add_session_routes(router, ctx)
    add_extension_routes(router, ctx, widgets or ExtensionWidgets(ctx.extensions))
    return router


def _add_stream(router: APIRouter, ctx: AppContext) -> None:
    @router.get("/events")
    async def events(caller: Who, chat: int = 0, window: int = WINDOW) -> StreamingResponse:
        stream = _visit(ctx, caller, chat, min(max(window, 1), 100_000))
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    @router.post("/preview")
    async def preview(caller: Who, body: _Preview) -> dict[str, Any]:
        if ctx.engine.state.phase != "ready":
            return {"tokens": 0, "context": 0, "sentence": ""}
        prompt = await ctx.chats.preview(
            body.chat,
            caller.user,
            body.text,
            from_widgets(body.values),
            body.fresh.mode,
            body.fresh.character,
        )
        return {
            "tokens": prompt.tokens,
            "context": prompt.context,
            "sentence": prompt.sentence,
        }

    @router.post("/context")
    async def context(caller: Who, body: _Preview) -> dict[str, Any]:
        view = await ctx.chats.context(
            body.chat,
            caller.user,
            body.text,
            from_widgets(body.values),
            body.fresh.mode,
            body.fresh.character,
        )
        return dataclasses.asdict(view) | {"free": view.free}


async def _visit(ctx: AppContext, caller: Caller, chat: int, window: int) -> AsyncIterator[str]:
    """The events of a tab, which is counted while it is there."""
    with ctx.host.visitors.visit(caller):
        async with contextlib.aclosing(_events(ctx, caller, chat, window)) as events:
            async for event in events:
                yield event


async def _events(ctx: AppContext, caller: Caller, chat: int, window: int) -> AsyncGenerator[str]:
    """State differences as server-sent events, until the tab is gone."""
    signals = {
        "engine": ctx.engine.changed,
        "jobs": ctx.jobs.changed,
        "training": ctx.training.changed,
        "extensions": ctx.extensions.changed,
        "chats": ctx.chats.notices.listed(caller.user),
        "ended": ctx.access.ended,
        "restarting": ctx.host.ending,
    }
    feed = None
    if chat:
        try:
            await ctx.chats.chat(chat, caller.user)
        except NotFoundError as error:
            yield _event({"gone": str(error)})
        else:
            feed = ChatFeed(ctx.chats, chat, caller, window)
            signals["chat"] = ctx.chats.notices.changed(chat)
    seen = dict.fromkeys(signals.values(), -1)
    while True:
        fresh = {name for name, signal in signals.items() if signal.version != seen[signal]}
        seen = {signal: signal.version for signal in seen}
        update: dict[str, Any] = {}
        if not ctx.access.admits(caller):
            yield _event({"ended": True})
            return
        if "restarting" in fresh:  # as everything is at first
            update |= {"boot": ctx.host.boot, "restarting": ctx.host.restarting}
        if fresh & {"engine", "jobs"}:
            update["engine"] = models.engine_json(ctx, admin=caller.admin)
            update["jobs"] = models.jobs_json(ctx)
            update["downloads"] = downloads_json(ctx) if caller.admin else []
            update["merges"] = merges_json(ctx) if caller.admin else []
        if "training" in fresh:
            brief = asyncio.to_thread(brief_json, ctx, admin=caller.admin)
            update["training"] = await brief
        if "extensions" in fresh:
            update["extensions"] = extensions_json(ctx, admin=caller.admin)
        if "chats" in fresh:
            update["chats"] = [
                {
                    "id": c.id,
                    "title": c.title or c.character,
                    "at": c.updated_at,
                    "folder": c.folder,
                    "pinned": c.pinned,
                    "incognito": is_incognito(c.id),
                }
                for c in await ctx.chats.chats(caller.user)
            ]
        if feed is not None and "chat" in fresh:
            try:
                update |= await feed.changes() or {}
            except NotFoundError as error:
                update["gone"] = str(error)
                feed = None
        if update:
            yield _event(update)
            await asyncio.sleep(_PACE_S)
        elif not await first_change(seen, _KEEP_ALIVE_S):
            ctx.chats.see(chat)
            yield ": still here\n\n"


def _event(update: dict[str, Any]) -> str:
    return f"data: {json.dumps(update, ensure_ascii=False)}\n\n"


def _add_chat_routes(router: APIRouter, ctx: AppContext) -> None:
    chats = ctx.chats

    @router.post("/chats")
    async def create(caller: Who, body: _Fresh | None = None) -> dict[str, int]:
        fresh = body or _Fresh()
        chat = await chats.create(caller.user, **fresh.model_dump())
        return {"id": chat.id}

    @router.post("/chats/{chat}/rename")
    async def rename(caller: Who, chat: Id, body: _Text) -> None:
        await chats.change(chat, caller.user, title=body.text)

    @router.post("/chats/{chat}/mode")
    async def mode(caller: Who, chat: Id, body: _Mode) -> None:
        await chats.change(chat, caller.user, mode=body.mode)

    @router.post("/chats/{chat}/system")
    async def system(caller: Who, chat: Id, body: _Text) -> None:
        await chats.change(chat, caller.user, system=body.text)

    @router.post("/chats/{chat}/adapters")
    async def adapters(caller: Who, chat: Id, body: _Adapters) -> None:
        mix = None if body.adapters is None else tuple(body.adapters)
        await chats.change(chat, caller.user, adapters=mix)

    @router.post("/chats/{chat}/delete")
    async def delete(caller: Who, chat: Id) -> None:
        await chats.delete(chat, caller.user)

    @router.post("/chats/{chat}/restore")
    async def restore(caller: Who, chat: Id) -> None:
        await chats.restore(chat, caller.user)

    @router.post("/chats/{chat}/send")
    async def send(caller: Who, chat: Id, body: _Send) -> None:
        params = from_widgets(body.values)
        await chats.send(chat, caller.user, body.text, params, beginning=body.beginning)

    @router.post("/chats/{chat}/stop")
    async def stop(caller: Who, chat: Id) -> None:
        await chats.stop(chat, caller.user)


def _add_message_routes(router: APIRouter, ctx: AppContext) -> None:
    chats = ctx.chats
    place = "/chats/{chat}/messages/{message}"

    @router.get(place)
    async def text(caller: Who, chat: Id, message: Id) -> dict[str, str]:
        return {"text": await chats.text(chat, caller.user, message)}

    @router.post(place + "/regenerate")
    async def regenerate(caller: Who, chat: Id, message: Id, body: _Answer) -> None:
        params = from_widgets(body.values)
        await chats.regenerate(chat, caller.user, message, params, beginning=body.beginning)

    @router.post(place + "/continue")
    async def continue_reply(caller: Who, chat: Id, message: Id, body: _Values) -> None:
        await chats.continue_reply(chat, caller.user, message, from_widgets(body.values))

    @router.post(place + "/edit")
    async def edit(caller: Who, chat: Id, message: Id, body: _Edit) -> None:
        params = None if body.values is None else from_widgets(body.values)
        await chats.edit(chat, caller.user, message, body.text, params, beginning=body.beginning)

    @router.post(place + "/show")
    async def show(caller: Who, chat: Id, message: Id) -> None:
        await chats.show_version(chat, caller.user, message)

    @router.post(place + "/delete")
    async def delete(caller: Who, chat: Id, message: Id) -> None:
        await chats.delete_message(chat, caller.user, message)

    @router.post(place + "/restore")
    async def restore(caller: Who, chat: Id, message: Id) -> None:
        await chats.restore_message(chat, caller.user, message)
