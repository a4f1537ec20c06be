"""The page's routes for presets: everybody loads them, and the owner keeps them."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from modules.access import Caller, caller_of
from modules.context import AppContext
from modules.engine.params import knobs
from modules.engine.presets import (
    Preset,
    delete_preset,
    in_presets,
    list_presets,
    load_preset,
    save_preset,
)
from modules.errors import ForbiddenError, LanternError
from modules.paths import Paths
from modules.ui.callers import Who
from modules.ui.components.knobs import from_widgets, neutral_values, to_widgets

__all__ = ["add_preset_routes"]


class _Name(BaseModel):
    name: Annotated[str, Field(max_length=300)]


class _Save(_Name):
    values: Annotated[list[Any], Field(max_length=200)]


def _keeper(request: Request) -> Caller:
    caller = caller_of(request.scope)
    if not caller.admin:
        raise ForbiddenError(
            "Only the owner may save and delete presets.", "Your own values stay in this browser."
        )
    return caller


Keeper = Annotated[Caller, Depends(_keeper)]


def add_preset_routes(router: APIRouter, ctx: AppContext) -> None:
    """Everything of the page that is about presets."""
    paths = ctx.settings.paths

    @router.get("/presets")
    async def listed(caller: Who) -> dict[str, Any]:
        presets = await asyncio.to_thread(list_presets, paths)
        return {
            "may_save": caller.admin,
            "presets": await asyncio.to_thread(lambda: [_json(paths, one) for one in presets]),
        }

    @router.post("/presets/save")
    async def save(caller: Keeper, body: _Save) -> None:
        params = from_widgets(body.values)
        await asyncio.to_thread(save_preset, paths, body.name.strip(), params)

    @router.post("/presets/delete")
    async def delete(caller: Keeper, body: _Name) -> None:
        await asyncio.to_thread(delete_preset, paths, body.name)


def _json(paths: Paths, preset: Preset) -> dict[str, Any]:
    """A preset as the widgets show it, by field and only where it is not neutral."""
    about: dict[str, Any] = {
        "name": preset.name,
        "own": preset.own,
        "shipped": preset.shipped,
        "about": preset.about,
    }
    try:
        shown = to_widgets(load_preset(paths, preset.name))
    except LanternError as error:
        return about | {"problem": str(error)}
    ours = set(in_presets())
    return about | {
        "values": {
            name: value
            for name, value, neutral in zip(knobs(), shown, neutral_values(), strict=True)
            if name in ours and value != neutral
        }
    }
