"""The page's routes for what is written in the Default and Notebook modes: drafts and prompts."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from modules.access import Caller, caller_of
from modules.chat.drafts import Draft, DraftKind
from modules.chat.prompt_files import delete_prompt, list_prompts, read_prompt, save_prompt
from modules.chat.store import MAX_MESSAGE_CHARS
from modules.context import AppContext
from modules.errors import ForbiddenError
from modules.ui.callers import Who

__all__ = ["add_writing_routes"]

Text = Annotated[str, Field(max_length=MAX_MESSAGE_CHARS)]


class _Draft(BaseModel):
    """`before` is the checksum of what the tab began to change; null saves in any case."""

    mode: DraftKind
    text: Text
    reply: Text = ""
    before: Annotated[int, Field(ge=0, lt=2**32)] | None = None


class _Name(BaseModel):
    name: Annotated[str, Field(max_length=300)]


class _Save(_Name):
    text: Text
    replace: bool = False


def _keeper(request: Request) -> Caller:
    caller = caller_of(request.scope)
    if not caller.admin:
        raise ForbiddenError(
            "Only the owner may save and delete prompts.", "Your texts are kept all the same."
        )
    return caller


Keeper = Annotated[Caller, Depends(_keeper)]


def add_writing_routes(router: APIRouter, ctx: AppContext) -> None:
    """Everything of the page that keeps what is written outside of chats."""
    folder = ctx.settings.paths.prompts

    @router.post("/draft")
    async def keep(caller: Who, body: _Draft) -> dict[str, Any]:
        draft = Draft(body.text, body.reply)
        other = await asyncio.to_thread(ctx.drafts.keep, caller.user, body.mode, draft, body.before)
        return {"other": None if other is None else dataclasses.asdict(other)}

    @router.get("/prompts")
    async def listed(caller: Who) -> dict[str, Any]:
        names = await asyncio.to_thread(list_prompts, folder)
        return {"may_save": caller.admin, "names": names}

    @router.post("/prompts/read")
    async def read(caller: Who, body: _Name) -> dict[str, str]:
        return {"text": await asyncio.to_thread(read_prompt, folder, body.name)}

    @router.post("/prompts/save")
    async def save(caller: Keeper, body: _Save) -> None:
        name = body.name.strip()
        await asyncio.to_thread(save_prompt, folder, name, body.text, replace=body.replace)

    @router.post("/prompts/delete")
    async def delete(caller: Keeper, body: _Name) -> None:
        await asyncio.to_thread(delete_prompt, folder, body.name)
