"""The page's routes for tools: which there are, which a chat has, and what is decided of calls.

A tool runs with the owner's rights, so nobody else sees or uses any; what belongs to a chat is
checked by `Approvals`, which knows whose it is.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from modules.chat.tools.approvals import Decision
from modules.chat.tools.toolbox import Source
from modules.context import AppContext
from modules.ui.callers import Admin, Id, Who

__all__ = ["add_tool_routes"]

Name = Annotated[str, Field(max_length=120)]


class _Look(BaseModel):
    """With `start`, the answer comes when every MCP server is up, or is not."""

    start: bool = False


class _Chosen(BaseModel):
    names: Annotated[list[Name], Field(max_length=500)]


class _Decision(BaseModel):
    decision: Decision


def add_tool_routes(router: APIRouter, ctx: AppContext) -> None:
    """Look, choose, decide."""
    approvals = ctx.chats.approvals

    @router.get("/tools")
    async def available(caller: Who) -> dict[str, bool]:
        return {"available": caller.admin and await ctx.chats.desk.available()}

    @router.post("/tools/sources")
    async def sources(caller: Admin, body: _Look) -> dict[str, Any]:
        found = await approvals.sources(start=body.start)
        return {"sources": [_source_json(source) for source in found]}

    @router.post("/chats/{chat}/tools")
    async def choose(caller: Who, chat: Id, body: _Chosen) -> None:
        await approvals.choose(chat, caller.user, body.names)

    @router.post("/chats/{chat}/messages/{message}/calls/{call}")
    async def decide(
        caller: Who,
        chat: Id,
        message: Id,
        call: Annotated[str, Path(max_length=120)],
        body: _Decision,
    ) -> None:
        await approvals.decide(chat, caller.user, message, call, body.decision)


def _source_json(source: Source) -> dict[str, Any]:
    return {
        "name": source.name,
        "kind": source.kind,
        "state": source.state,
        "tools": [{"name": t.name, "about": t.description} for t in source.tools],
        "problems": list(source.problems),
    }
