"""The page's routes for models: choose, plan, load, download. All for the owner alone."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from modules.context import AppContext
from modules.errors import SettingsError
from modules.loader.catalog import find_model
from modules.loader.inspect import inspect_checkpoint
from modules.loader.options import LoadOptions
from modules.loader.plan import make_plan
from modules.loader.saved_options import forget_options, save_options, saved_options
from modules.ui import adapters, downloads, models, served
from modules.ui.callers import Admin, Id
from modules.ui.chat_templates import template_json
from modules.ui.model_card import card_json, controls_json, kind_of, options_json, plan_json
from modules.ui.planning import free_machine, options_for, plan_load

__all__ = ["add_model_routes"]

Name = Annotated[str, Field(max_length=300)]


class _Model(BaseModel):
    name: Name


class _Load(_Model):
    options: LoadOptions | None = None


class _Options(_Model):
    options: LoadOptions


class _Template(_Model):
    template: Name


class _Look(BaseModel):
    model: Name


class _Download(_Look):
    revision: Name


class _Weights(BaseModel):
    weights: dict[Name, float] = Field(max_length=100)


class _Pause(BaseModel):
    paused: bool


def add_model_routes(router: APIRouter, ctx: AppContext) -> None:
    """Everything of the page that is about models."""
    _add_choice(router, ctx)
    _add_settings(router, ctx)
    _add_templates(router, ctx)
    _add_loading(router, ctx)
    _add_adapters(router, ctx)
    _add_downloads(router, ctx)
    _add_jobs(router, ctx)


def _add_choice(router: APIRouter, ctx: AppContext) -> None:
    @router.get("/models")
    async def listed(caller: Admin) -> dict[str, Any]:
        if ctx.engine.catalog is not None:
            return await served.listed_json(ctx.engine.catalog)
        return await asyncio.to_thread(_listed, ctx)

    @router.post("/models/card")
    async def card(caller: Admin, body: _Model) -> dict[str, Any]:
        if ctx.engine.catalog is not None:
            return await served.card_json(ctx, ctx.engine.catalog, body.name)
        found = await asyncio.to_thread(_card, ctx, body.name)
        return found | {"template": await template_json(ctx, body.name)}

    @router.post("/models/plan")
    async def plan(caller: Admin, body: _Options) -> dict[str, Any]:
        ctx.engine.prepare()  # who looks at a plan is about to load
        return await asyncio.to_thread(_plan, ctx, body.name, body.options)


def _listed(ctx: AppContext) -> dict[str, Any]:
    """What lies in models/; what can be loaded, with its kind, and whether it fits."""
    found = models.models_json(ctx)
    machine = free_machine(ctx)
    for model in found["models"]:
        if not model["problem"]:
            path = ctx.settings.model_dir / model["name"]
            inspection = inspect_checkpoint(path)
            model["kind"] = kind_of(inspection)
            # A damaged file of settings is told by the card; the list is there all the same.
            with contextlib.suppress(SettingsError):
                model["fits"] = make_plan(inspection, options_for(ctx, path), machine).fits
    return found


def _card(ctx: AppContext, name: str) -> dict[str, Any]:
    """A model, the options that fit it, how they stand, and what they cost."""
    path = find_model(ctx.settings.model_dir, name)
    options = options_for(ctx, path)
    inspection = inspect_checkpoint(path)
    return {
        "card": card_json(inspection),
        "controls": controls_json(inspection, free_machine(ctx)),
        "options": options_json(options),
        "saved": saved_options(ctx.settings.models_yaml, name) is not None,
        "plan": _plan(ctx, name, options),
    }


def _plan(ctx: AppContext, name: str, options: LoadOptions) -> dict[str, Any]:
    """What a load by `options` would cost, or why they cannot load it."""
    inspection = inspect_checkpoint(find_model(ctx.settings.model_dir, name), options)
    if inspection.problem:
        return {"problem": inspection.problem, "remedy": inspection.remedy}
    return plan_json(plan_load(ctx, inspection, options))


def _add_settings(router: APIRouter, ctx: AppContext) -> None:
    kept = ctx.settings.models_yaml

    @router.post("/models/settings/save")
    async def save(caller: Admin, body: _Options) -> None:
        find_model(ctx.settings.model_dir, body.name)
        await asyncio.to_thread(save_options, kept, body.name, body.options)

    @router.post("/models/settings/forget")
    async def forget(caller: Admin, body: _Model) -> None:
        await asyncio.to_thread(forget_options, kept, body.name)


def _add_templates(router: APIRouter, ctx: AppContext) -> None:
    @router.post("/models/template")
    async def template(caller: Admin, body: _Model) -> dict[str, Any]:
        return await template_json(ctx, body.name)

    @router.post("/models/template/choose")
    async def choose(caller: Admin, body: _Template) -> dict[str, Any]:
        if ctx.engine.catalog is None:
            find_model(ctx.settings.model_dir, body.name)
        await asyncio.to_thread(ctx.templates.choose, body.name, body.template)
        return await template_json(ctx, body.name)


def _add_loading(router: APIRouter, ctx: AppContext) -> None:
    @router.post("/models/load")
    async def load(caller: Admin, body: _Load) -> None:
        models.load(ctx, body.name, body.options)

    @router.post("/models/again")
    async def again(caller: Admin) -> None:
        models.load_again(ctx)

    @router.post("/models/starter")
    async def starter(caller: Admin) -> None:
        models.load_starter(ctx)

    @router.post("/models/unload")
    async def unload(caller: Admin) -> None:
        await ctx.engine.unload()


def _add_adapters(router: APIRouter, ctx: AppContext) -> None:
    @router.get("/adapters")
    async def listed(caller: Admin) -> dict[str, Any]:
        if ctx.engine.catalog is not None:
            return await served.served_adapters_json(ctx.engine.catalog)
        return await asyncio.to_thread(adapters.adapters_json, ctx)

    @router.post("/adapters/apply")
    async def apply(caller: Admin, body: _Model) -> None:
        await adapters.apply_adapter(ctx, body.name)

    @router.post("/adapters/remove")
    async def remove(caller: Admin, body: _Model) -> None:
        await ctx.engine.unload_adapter(body.name)

    @router.post("/adapters/weights")
    async def weights(caller: Admin, body: _Weights) -> None:
        ctx.engine.weigh_adapters(body.weights)


def _add_downloads(router: APIRouter, ctx: AppContext) -> None:
    @router.post("/downloads/look")
    async def look(caller: Admin, body: _Look) -> dict[str, Any]:
        return await asyncio.to_thread(downloads.look_json, ctx, body.model)

    @router.post("/downloads")
    async def download(caller: Admin, body: _Download) -> None:
        await downloads.download(ctx, body.model, body.revision)


def _add_jobs(router: APIRouter, ctx: AppContext) -> None:
    @router.post("/jobs/{job}/cancel")
    async def cancel(caller: Admin, job: Id) -> None:
        ctx.jobs.cancel(job)

    @router.post("/jobs/{job}/pause")
    async def pause(caller: Admin, job: Id, body: _Pause) -> None:
        ctx.jobs.pause(job, body.paused)

    @router.post("/jobs/{job}/forget")
    async def forget(caller: Admin, job: Id) -> None:
        ctx.jobs.forget(job)
