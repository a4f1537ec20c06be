"""The page's routes for extensions: the list, and what those that are on add to the page.

The list and all that changes something is for the owner. Style and scripts are everybody's who
sees the page, and so are the colours of a caller's own replies.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, Field

from modules.chat.messages import Message
from modules.chat.reply_tokens import Part
from modules.chat.reply_views import ReplyView
from modules.context import AppContext
from modules.errors import ExtensionError, NotFoundError
from modules.extensions.script import Script
from modules.ui.callers import Admin, Id, Who
from modules.ui.extension_list import keep, list_json
from modules.ui.extension_widgets import ExtensionWidgets

__all__ = ["add_extension_routes"]

_Key = Annotated[str, Field(max_length=200)]
_Text = Annotated[str, Field(max_length=20_000)]


class _Switch(BaseModel):
    on: bool


class _Param(BaseModel):
    """A plain param's new value, of the kind that it has in the script."""

    key: _Key
    value: bool | int | float | _Text


class _Call(BaseModel):
    """What an extension's script in the page asks for, and about which message."""

    action: _Key
    body: dict[str, Any] = Field(default_factory=dict)
    chat: Id | None = None
    message: Id | None = None


def add_extension_routes(router: APIRouter, ctx: AppContext, widgets: ExtensionWidgets) -> None:
    """Everything of the page that is about extensions."""
    _add_list(router, ctx, widgets)
    _add_looks(router, ctx)
    _add_tokens(router, ctx)


def _add_list(router: APIRouter, ctx: AppContext, widgets: ExtensionWidgets) -> None:
    extensions = ctx.extensions

    @router.get("/extensions")
    async def listed(caller: Admin) -> dict[str, Any]:
        return await list_json(ctx, widgets)

    @router.post("/extensions/{name}/switch")
    async def switch(caller: Admin, name: str, body: _Switch) -> dict[str, Any]:
        with contextlib.suppress(ExtensionError):  # which the list tells, at its place
            await (extensions.enable(name) if body.on else extensions.disable(name))
        return await list_json(ctx, widgets)

    @router.post("/extensions/{name}/param")
    async def param(caller: Admin, name: str, body: _Param) -> dict[str, Any]:
        await extensions.set_param(name, body.key, body.value)
        return await list_json(ctx, widgets)

    @router.post("/extensions/{name}/keep")
    async def kept(caller: Admin, name: str) -> dict[str, Any]:
        await asyncio.to_thread(keep, ctx, name)
        extensions.changed.notify()  # what other tabs say of it is other now
        return await list_json(ctx, widgets)

    @router.post("/extensions/{name}/call")
    async def call(caller: Admin, name: str, body: _Call) -> dict[str, Any]:
        script = _script(ctx, name, "page_call")
        about = None
        if body.chat is not None and body.message is not None:
            view = await ctx.chats.views.view(body.chat, caller.user, body.message)
            about = _view_json(view)
        found: dict[str, Any] = await extensions.call(
            script, "page_call", body.action, body.body, about
        )
        return found


def _add_looks(router: APIRouter, ctx: AppContext) -> None:
    extensions = ctx.extensions

    @router.get("/extensions/looks")
    async def looks(caller: Who) -> list[dict[str, str]]:
        return [
            {
                "name": script.name,
                "title": script.display_name,
                "css": await _text(script, "custom_css"),
                "js": await _text(script, "custom_js"),
            }
            for script in extensions.plugins()
            if {"custom_css", "custom_js"} & set(script.hooks)
        ]

    @router.get("/extensions/{name}/script.js")
    async def code(caller: Who, name: str) -> Response:
        text = await _text(_script(ctx, name, "custom_js"), "custom_js")
        # In a function of its own, so that the names of one are not those of another; on one
        # line with it, so that its lines keep their numbers.
        whole = (
            f"window.lanternExtensions.run({json.dumps(name)}, async (lantern) => {{ {text}\n}});\n"
        )
        headers = {"cache-control": "no-store"}
        return Response(whole, media_type="text/javascript", headers=headers)

    async def _text(script: Script, hook: str) -> str:
        """What a hook returns; nothing where there is none, or it fails."""
        if hook not in script.hooks:
            return ""
        try:
            return str(await extensions.call(script, hook))
        except ExtensionError:
            return ""


def _add_tokens(router: APIRouter, ctx: AppContext) -> None:
    extensions = ctx.extensions

    @router.get("/chats/{chat}/messages/{message}/tokens")
    async def tokens(caller: Who, chat: Id, message: Id) -> dict[str, Any]:
        parts = await ctx.chats.views.tokens(chat, caller.user, message)
        given = [_token_json(part) for part in parts if part.token is not None]
        for script in extensions.declaring("token_colors") if given else ():
            try:
                found = await extensions.call(script, "token_colors", given)
                if found is not None:
                    return _colored(parts, found)
            except ExtensionError:
                continue
            except (ValueError, TypeError) as error:
                text = f"returned what does not fit: {error}"
                extensions.fail(script.name, "token_colors", text)
        return {"parts": []}


def _script(ctx: AppContext, name: str, hook: str) -> Script:
    """The script of an extension that is on and has this hook. Raises NotFoundError."""
    for script in ctx.extensions.declaring(hook):
        if script.name == name:
            return script
    raise NotFoundError(f"The extension {name[:60]} is not on.", "Switch it on in the Session tab.")


def _token_json(part: Part) -> dict[str, Any]:
    assert part.token is not None
    return {
        "text": part.token.text,
        "probability": part.token.probability,
        "alternatives": [list(one) for one in part.token.alternatives],
    }


def _colored(parts: list[Part], found: dict[str, Any]) -> dict[str, Any]:
    """The pieces of a reply with their colours. Raises ValueError or TypeError."""
    colors, legend = list(found.get("colors", ())), found.get("legend", ())
    known = [part for part in parts if part.token is not None]
    if len(colors) != len(known) or not all(isinstance(one, str) for one in colors):
        raise ValueError(f"{len(known)} tokens have {len(known)} colors, each of them a text")
    waiting = iter(colors)
    return {
        "parts": [
            [part.text, next(waiting), part.token.probability, part.token.alternatives]
            if part.token is not None
            else [part.text]
            for part in parts
        ],
        "legend": [[str(color), str(meaning)] for color, meaning in legend][:20],
    }


def _view_json(view: ReplyView) -> dict[str, Any]:
    """A message as page_call is told of it."""
    message = view.message
    return {
        "id": message.id,
        "chat": message.chat_id,
        "role": message.role,
        "text": message.content,
        "calls_tools": bool(message.calls),
        "history": [_openai(one) for one in view.history],
        "versions": [{"id": one.id, "text": one.content} for one in view.versions],
    }


def _openai(message: Message) -> dict[str, Any]:
    """A message in OpenAI's form."""
    said: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        said["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    if message.call_id:
        said["tool_call_id"] = message.call_id
    return said
