"""The page's routes for characters and profiles: everybody chooses, and the owner keeps them.

Pictures leave as WebP files that were written here (`modules/chat/pictures.py`), whatever lies
in the folder.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from modules.access import Caller, caller_of
from modules.chat.character import Character, character_from
from modules.chat.character_card import MAX_CARD_BYTES, Card, as_png_card, read_card
from modules.chat.characters import CharacterFile, Characters, as_yaml, key_of
from modules.chat.pictures import load_picture, read_picture, shrunk
from modules.chat.profiles import Profile
from modules.chat.template_library import PLAIN
from modules.context import AppContext
from modules.errors import ForbiddenError, InvalidInputError, NotFoundError
from modules.ui.callers import Who
from modules.ui.faces import character_address, profile_address

__all__ = ["add_character_routes"]

_CONFLICTS = Literal["ask", "replace", "both"]
_MAX_BASE64 = 4 * MAX_CARD_BYTES // 3 + 4

Name = Annotated[str, Field(max_length=300)]
Text = Annotated[str, Field(max_length=200_000)]
Key = Annotated[str, Query(max_length=300)]


class _Key(BaseModel):
    name: Name


class _Picture(BaseModel):
    """`picture`: a file in base64; null keeps what is there, and an empty text removes it."""

    picture: Annotated[str, Field(max_length=_MAX_BASE64)] | None = None


class _Character(_Picture):
    """`key` is the character that is changed, and empty for a new one."""

    key: Name = ""
    name: Name
    greeting: Text = ""
    context: Text = ""
    example_dialogue: Text = ""
    alternate_greetings: list[Text] = Field(default=[], max_length=100)


class _Profile(_Picture):
    name: Name
    about: Text = ""


def _keeper(request: Request) -> Caller:
    caller = caller_of(request.scope)
    if not caller.admin:
        raise ForbiddenError(
            "Only the owner may change characters.", "You can chat with those that are here."
        )
    return caller


Keeper = Annotated[Caller, Depends(_keeper)]


def add_character_routes(router: APIRouter, ctx: AppContext) -> None:
    """Everything of the page that is about characters and profiles."""
    _add_gallery(router, ctx)
    _add_editor(router, ctx)
    _add_exchange(router, ctx)
    _add_profile(router, ctx)


def _add_gallery(router: APIRouter, ctx: AppContext) -> None:
    characters = ctx.characters

    @router.get("/characters")
    async def listed(caller: Who) -> dict[str, Any]:
        found = await asyncio.to_thread(lambda: [_json(one) for one in characters.all()])
        return {"may_save": caller.admin, "characters": found}

    @router.get("/characters/picture")
    async def picture(caller: Who, name: Key) -> Response:
        path = await asyncio.to_thread(characters.picture, name)
        return _webp(None if path is None else await asyncio.to_thread(read_picture, path))

    @router.get("/modes")
    async def modes(caller: Who) -> dict[str, str]:
        """The mode that suits the loaded model, and why."""
        info = ctx.engine.state.info
        if info is not None and info.chat_template is None and info.server is None:
            template = await asyncio.to_thread(ctx.templates.template_of, info)
            if template.key == PLAIN.key:
                return {"suggested": "chat", "why": template.reason}
        return {"suggested": "", "why": ""}


def _add_editor(router: APIRouter, ctx: AppContext) -> None:
    characters = ctx.characters

    @router.get("/characters/source")
    async def source(caller: Keeper, name: Key) -> dict[str, Any]:
        found = await asyncio.to_thread(characters.find, name)
        picture = character_address(name, characters.picture(name))
        return found.as_mapping() | {"key": name, "picture": picture}

    @router.post("/characters/save")
    async def save(caller: Keeper, body: _Character) -> dict[str, str]:
        texts = body.model_dump(exclude={"key", "picture"})
        found, _ = character_from(texts)
        key = await asyncio.to_thread(_save, characters, body, found)
        ctx.chats.notices.tell_all()
        return {"name": key}

    @router.post("/characters/duplicate")
    async def duplicate(caller: Keeper, body: _Key) -> dict[str, str]:
        return {"name": await asyncio.to_thread(_duplicate, characters, body.name)}

    @router.post("/characters/delete")
    async def delete(caller: Keeper, body: _Key) -> None:
        await asyncio.to_thread(characters.delete, body.name)
        ctx.chats.notices.tell_all()

    @router.post("/characters/restore")
    async def restore(caller: Keeper, body: _Key) -> None:
        await asyncio.to_thread(characters.restore, body.name)
        ctx.chats.notices.tell_all()


def _add_exchange(router: APIRouter, ctx: AppContext) -> None:
    characters = ctx.characters

    @router.post("/characters/import")
    async def import_(
        caller: Keeper, request: Request, name: Key = "", conflict: _CONFLICTS = "ask"
    ) -> dict[str, Any]:
        data = await _body(request)
        card = await asyncio.to_thread(read_card, data, name)
        answer = await asyncio.to_thread(_keep, characters, card, conflict)
        ctx.chats.notices.tell_all()
        return answer

    @router.get("/characters/export")
    async def export(caller: Keeper, name: Key, form: Literal["yaml", "png"]) -> Response:
        found = await asyncio.to_thread(characters.find, name)
        if form == "yaml":
            return _download(as_yaml(found).encode(), f"{name}.yaml", "application/yaml")
        path = characters.picture(name)
        image = None if path is None else await asyncio.to_thread(read_picture, path)
        card = await asyncio.to_thread(as_png_card, found, image)
        return _download(card, f"{name}.png", "image/png")


def _add_profile(router: APIRouter, ctx: AppContext) -> None:
    profiles = ctx.profiles

    @router.get("/profile")
    async def profile(caller: Who) -> dict[str, Any]:
        found = await asyncio.to_thread(profiles.of, caller.user)
        return {"name": found.name, "about": found.about, "picture": profile_address(found)}

    @router.get("/profile/picture")
    async def picture(caller: Who) -> Response:
        return _webp((await asyncio.to_thread(profiles.of, caller.user)).picture)

    @router.post("/profile/save")
    async def save(caller: Who, body: _Profile) -> None:
        image = await asyncio.to_thread(_sent, body)
        if body.picture is None:
            image = (await asyncio.to_thread(profiles.of, caller.user)).picture
        changed = Profile(body.name, body.about, image)
        await asyncio.to_thread(profiles.save, caller.user, changed)
        ctx.chats.notices.tell_all()


# -- keeping ------------------------------------------------------------------------------


def _save(characters: Characters, body: _Character, character: Character) -> str:
    """Keep what was edited; returns its key."""
    key = body.key or characters.free_key(character.name)
    picture = _sent(body)
    if body.picture is None and body.key:
        picture = _picture_of(characters, body.key)
    characters.save(key, character, picture)
    return key


def _duplicate(characters: Characters, key: str) -> str:
    character = characters.find(key)
    copy = characters.free_key(key)
    characters.save(copy, character, _picture_of(characters, key))
    return copy


def _keep(characters: Characters, card: Card, conflict: _CONFLICTS) -> dict[str, Any]:
    """Keep an imported character, or tell that one of its name is there already."""
    key = key_of(card.character.name)
    if characters.has(key):
        if conflict == "ask":
            return {"taken": key}
        if conflict == "both":
            key = characters.free_key(card.character.name)
    characters.save(key, card.character, card.picture)
    return {"name": key, "left_out": card.left_out}


def _picture_of(characters: Characters, key: str) -> bytes | None:
    path = characters.picture(key)
    return None if path is None else load_picture(path)


def _sent(body: _Picture) -> bytes | None:
    """The picture in a request as a WebP."""
    if not body.picture:
        return None
    try:
        image = base64.b64decode(body.picture, validate=True)
    except ValueError as error:  # what is no ASCII is no binascii.Error
        raise InvalidInputError("The picture did not arrive whole.", "Send it again.") from error
    return shrunk(image)


async def _body(request: Request) -> bytes:
    """What was uploaded; what is too large is refused before it is read."""
    length = request.headers.get("content-length", "")
    too_large = InvalidInputError("The file is larger than 16 MB.", "Use a smaller card.")
    if length.isdecimal() and int(length[:20]) > MAX_CARD_BYTES:
        raise too_large
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > MAX_CARD_BYTES:
            raise too_large
    return bytes(data)


# -- told ---------------------------------------------------------------------------------


def _json(one: CharacterFile) -> dict[str, Any]:
    return {
        "key": one.key,
        "name": one.name,
        "line": one.line,
        "own": one.own,
        "shipped": one.shipped,
        "problem": one.problem,
        "picture": character_address(one.key, one.picture),
    }


def _webp(data: bytes | None) -> Response:
    if data is None:
        raise NotFoundError("There is no picture.", "Give it one in its editor.")
    headers = {"x-content-type-options": "nosniff", "cache-control": "private, max-age=86400"}
    return Response(data, media_type="image/webp", headers=headers)


def _download(data: bytes, filename: str, kind: str) -> Response:
    headers = {
        "content-disposition": f'attachment; filename="{filename}"',
        "x-content-type-options": "nosniff",
    }
    return Response(data, media_type=kind, headers=headers)
