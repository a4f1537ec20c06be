"""The page's routes for the Session tab: settings, access, report, log, restart.

All are for the owner, and what has tokens in it for the owner at this machine.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from modules.context import AppContext
from modules.ui.callers import Admin, Here
from modules.ui.session_access import access_json, links_json, log_out
from modules.ui.session_report import log_json, report_json
from modules.ui.session_restart import restart
from modules.ui.session_settings import check_setting, save, settings_json

__all__ = ["add_session_routes"]

_Name = Annotated[str, Field(max_length=100)]
_Text = Annotated[str, Field(max_length=4_000)]
_Value = bool | _Text | Annotated[list[_Text], Field(max_length=64)]


class _Check(BaseModel):
    name: _Name
    value: _Value


class _Changes(BaseModel):
    """Values by the names of settings; null takes one out of the file."""

    changes: dict[_Name, _Value | None] = Field(max_length=200)


class _Login(BaseModel):
    name: _Name


def add_session_routes(router: APIRouter, ctx: AppContext) -> None:
    """Everything of the page that is about the process that serves."""
    _add_settings(router, ctx)
    _add_access(router, ctx)
    _add_reports(router, ctx)


def _add_settings(router: APIRouter, ctx: AppContext) -> None:
    @router.get("/session/settings")
    async def settings(caller: Admin) -> dict[str, Any]:
        return await asyncio.to_thread(settings_json, ctx, local=caller.local)

    @router.post("/session/settings")
    async def change(caller: Admin, body: _Changes) -> dict[str, Any]:
        await asyncio.to_thread(save, ctx, body.changes, local=caller.local)
        return await asyncio.to_thread(settings_json, ctx, local=caller.local)

    @router.post("/session/settings/check")
    async def check(caller: Admin, body: _Check) -> dict[str, str]:
        return {"fault": check_setting(body.name, body.value)}

    @router.post("/session/restart")
    async def start_anew(caller: Admin) -> dict[str, Any]:
        return await restart(ctx)


def _add_access(router: APIRouter, ctx: AppContext) -> None:
    @router.get("/session/access")
    async def access(caller: Admin) -> dict[str, Any]:
        return access_json(ctx, caller)

    @router.post("/session/access/links")
    async def links(caller: Here) -> dict[str, Any]:
        return links_json(ctx)

    @router.post("/session/access/renew")
    async def renew(caller: Here) -> dict[str, Any]:
        ctx.access.renew_tokens()
        return links_json(ctx)

    @router.post("/session/access/log-out")
    async def end(caller: Admin, body: _Login) -> dict[str, int]:
        return {"ended": log_out(ctx, body.name)}


def _add_reports(router: APIRouter, ctx: AppContext) -> None:
    @router.get("/session/report")
    async def report(caller: Admin) -> dict[str, str]:
        return await asyncio.to_thread(report_json, ctx)

    @router.get("/session/log")
    async def log(
        caller: Admin, after: Annotated[int, Field(ge=0, le=2**53)] = 0
    ) -> dict[str, Any]:
        return log_json(ctx, after)
