"""The page's routes for finding, arranging, exporting and importing chats, and their branches."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
import urllib.parse
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, Field

from modules.chat.impersonation import Impersonation
from modules.chat.search import MAX_QUERY_CHARS
from modules.chat.store import MAX_MESSAGE_CHARS
from modules.chat.transfer.reading import MAX_FILE_BYTES
from modules.chat.transfer.writing import FORMS, file_name, line_of
from modules.context import AppContext
from modules.errors import InvalidInputError, LanternError
from modules.ui.callers import Id, Who
from modules.ui.components.knobs import from_widgets

__all__ = ["add_library_routes"]

_MB = 1024 * 1024
_SPOOLED_BYTES = 4 * _MB
Text = Annotated[str, Field(max_length=MAX_MESSAGE_CHARS)]
FileName = Annotated[str, Query(max_length=300)]


class _Query(BaseModel):
    text: Annotated[str, Field(max_length=MAX_QUERY_CHARS)]


class _Switch(BaseModel):
    on: bool


class _Folder(BaseModel):
    text: Annotated[str, Field(max_length=300)]


class _Rename(BaseModel):
    name: Annotated[str, Field(max_length=300)]
    text: Annotated[str, Field(max_length=300)]


class _Add(BaseModel):
    role: Literal["user", "assistant"]
    text: Text


class _Impersonate(BaseModel):
    text: Text
    values: Annotated[list[Any], Field(max_length=200)]


def add_library_routes(router: APIRouter, ctx: AppContext) -> None:
    """Everything of the page that is about chats as things in a list, or as trees."""
    _add_list_routes(router, ctx)
    _add_file_routes(router, ctx)
    _add_tree_routes(router, ctx)
    _add_writing_routes(router, ctx)


def _add_list_routes(router: APIRouter, ctx: AppContext) -> None:
    chats, library = ctx.chats, ctx.chats.library

    @router.post("/search")
    async def search(caller: Who, body: _Query) -> dict[str, Any]:
        return {"hits": [asdict(hit) for hit in await library.search(caller.user, body.text)]}

    @router.post("/chats/{chat}/pin")
    async def pin(caller: Who, chat: Id, body: _Switch) -> None:
        await chats.change(chat, caller.user, pinned=body.on)

    @router.post("/chats/{chat}/folder")
    async def folder(caller: Who, chat: Id, body: _Folder) -> None:
        await chats.change(chat, caller.user, folder=body.text)

    @router.post("/folders/rename")
    async def rename(caller: Who, body: _Rename) -> None:
        await library.rename_folder(caller.user, body.name, body.text)

    @router.post("/chats/{chat}/copy")
    async def copy(caller: Who, chat: Id) -> dict[str, int]:
        return {"id": await library.new_from(chat, caller.user)}


def _add_file_routes(router: APIRouter, ctx: AppContext) -> None:
    library = ctx.chats.library

    @router.get("/chats/{chat}/export")
    async def export(
        caller: Who,
        chat: Id,
        form: Literal["lantern", "markdown", "sharegpt", "webui"] = "lantern",
    ) -> Response:
        copy = await library.export(chat, caller.user)
        chosen = FORMS[form]
        text = await asyncio.to_thread(chosen.write, copy)
        name = file_name(copy.title, chosen.suffix)
        return Response(text.encode(), media_type=chosen.media_type, headers=_as_file(name))

    @router.get("/export")
    async def export_all(caller: Who) -> StreamingResponse:
        lines = (line_of(copy) for copy in library.export_all(caller.user))
        name = time.strftime("lantern-chats-%Y-%m-%d.jsonl")
        return StreamingResponse(lines, media_type="application/jsonl", headers=_as_file(name))

    @router.post("/import")
    async def import_file(caller: Who, request: Request, name: FileName = "file") -> dict[str, Any]:
        with tempfile.SpooledTemporaryFile(max_size=_SPOOLED_BYTES) as file:
            size = 0
            async for chunk in request.stream():
                size += len(chunk)
                if size > MAX_FILE_BYTES:
                    raise InvalidInputError(
                        f"{name} has more than {MAX_FILE_BYTES // _MB} MB.",
                        "Split it, and import the parts.",
                        field="file",
                    )
                await asyncio.to_thread(file.write, chunk)
            file.seek(0)
            return {"ids": await library.import_file(caller.user, file, name)}


def _as_file(name: str) -> dict[str, str]:
    """Headers by which a browser saves what it gets."""
    quoted = urllib.parse.quote(name)
    return {
        "content-disposition": f"attachment; filename*=UTF-8''{quoted}",
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
    }


def _add_tree_routes(router: APIRouter, ctx: AppContext) -> None:
    library = ctx.chats.library
    place = "/chats/{chat}/messages/{message}"

    @router.get("/chats/{chat}/tree")
    async def tree(caller: Who, chat: Id) -> dict[str, Any]:
        return {"nodes": [asdict(node) for node in await library.tree(chat, caller.user)]}

    @router.post(place + "/reveal")
    async def reveal(caller: Who, chat: Id, message: Id) -> dict[str, int]:
        return {"after": await library.reveal(chat, caller.user, message)}

    @router.post(place + "/branch")
    async def branch(caller: Who, chat: Id, message: Id) -> None:
        await library.branch_from(chat, caller.user, message)

    @router.post(place + "/copy")
    async def copy(caller: Who, chat: Id, message: Id) -> dict[str, int]:
        return {"id": await library.new_from(chat, caller.user, message)}


def _add_writing_routes(router: APIRouter, ctx: AppContext) -> None:
    chats, library = ctx.chats, ctx.chats.library

    @router.post("/chats/{chat}/add")
    async def add(caller: Who, chat: Id, body: _Add) -> None:
        await library.add(chat, caller.user, body.role, body.text)

    @router.post("/chats/{chat}/remove-last")
    async def remove_last(caller: Who, chat: Id) -> dict[str, Any]:
        return asdict(await library.remove_last(chat, caller.user))

    @router.post("/chats/{chat}/impersonate")
    async def impersonate(caller: Who, chat: Id, body: _Impersonate) -> StreamingResponse:
        params = from_widgets(body.values)
        imagined = await chats.impersonate(chat, caller.user, body.text, params)
        return StreamingResponse(_lines(imagined), media_type="application/jsonl")


async def _lines(imagined: Impersonation) -> AsyncIterator[str]:
    """What is written, a JSON line for each piece; a fault of the engine is the last one."""
    try:
        async with aclosing(imagined.pieces()) as pieces:
            async for text in pieces:
                yield json.dumps({"text": text}) + "\n"
    except LanternError as error:
        yield json.dumps({"message": error.message, "remedy": error.remedy}) + "\n"
