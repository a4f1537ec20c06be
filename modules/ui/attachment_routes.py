"""The page's routes for files that are attached to messages."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from modules.chat.attachments import Attachment
from modules.chat.document_text import MAX_FILE_BYTES
from modules.context import AppContext
from modules.errors import InvalidInputError
from modules.ui.callers import Id, Who

__all__ = ["add_attachment_routes", "attachment_json"]


def add_attachment_routes(router: APIRouter, ctx: AppContext) -> None:
    """Upload, read, remove. A file is the body of its request, and no form."""
    files = ctx.chats.files
    place = "/chats/{chat}/attachments"

    @router.post(place)
    async def upload(
        request: Request,
        caller: Who,
        chat: Id,
        name: Annotated[str, Query(max_length=1000)] = "file",
    ) -> dict[str, Any]:
        await ctx.chats.chat(chat, caller.user)  # before anything is read
        data = await _body(request)
        return attachment_json(await files.add(chat, caller.user, name, data))

    @router.get(place)
    async def waiting(caller: Who, chat: Id) -> list[dict[str, Any]]:
        found = await files.waiting(chat, caller.user)
        texts = [(await files.read(chat, caller.user, one.id))[1] for one in found]
        return [
            attachment_json(one) | {"tokens": tokens}
            for one, tokens in zip(found, await _counted(ctx, texts), strict=True)
        ]

    @router.get(place + "/{file}")
    async def read(caller: Who, chat: Id, file: Id) -> dict[str, Any]:
        attachment, text = await files.read(chat, caller.user, file)
        (tokens,) = await _counted(ctx, [text])
        return attachment_json(attachment) | {"text": text, "tokens": tokens}

    @router.post(place + "/{file}/remove")
    async def remove(caller: Who, chat: Id, file: Id) -> None:
        await files.remove(chat, caller.user, file)


def attachment_json(attachment: Attachment) -> dict[str, Any]:
    """A file as the page draws it."""
    return {
        "id": attachment.id,
        "name": attachment.name,
        "size": attachment.size,
        "characters": attachment.characters,
        "note": attachment.note,
    }


async def _counted(ctx: AppContext, texts: list[str]) -> list[int] | list[None]:
    """The tokens of each text, where a model is loaded that counts them."""
    if ctx.engine.state.phase != "ready":
        return [None] * len(texts)
    return await ctx.engine.count_tokens(texts)


async def _body(request: Request) -> bytes:
    """The whole body, of which no more than the limit is ever held. Raises InvalidInputError."""
    said = request.headers.get("content-length", "")
    if said.isdigit() and int(said) > MAX_FILE_BYTES:
        raise _too_large()
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_FILE_BYTES:
            raise _too_large()
    return bytes(data)


def _too_large() -> InvalidInputError:
    return InvalidInputError(
        f"The file is larger than {MAX_FILE_BYTES // 1024**2} MB.",
        "Attach a part of it.",
        field="file",
    )
