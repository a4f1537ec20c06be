"""The page's routes for trainings: data, settings, runs. All for the owner alone."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import AfterValidator, BaseModel, Field

from modules.context import AppContext
from modules.errors import InvalidInputError
from modules.training import control
from modules.training.config import DatasetSource
from modules.training.memory import Workload
from modules.ui import training, training_chat, training_merge, training_sets
from modules.ui.callers import Admin
from modules.ui.training_plan import plan_json
from modules.ui.training_preview import Previews
from modules.yaml_files import MAX_YAML_BYTES

__all__ = ["add_training_routes"]

Name = Annotated[str, Field(max_length=300)]
Step = Annotated[int, Field(ge=0, le=2**53)]


def _of_bounded_size(entries: dict[str, Any]) -> dict[str, Any]:
    if len(json.dumps(entries)) > MAX_YAML_BYTES:
        raise ValueError("a config has 64 KB at most")
    return entries


Entries = Annotated[dict[str, Any], AfterValidator(_of_bounded_size)]
"""A config as its YAML file has it; what is in it is checked by `from_mapping`."""


class _Config(BaseModel):
    config: Entries


class _Row(_Config):
    index: Step = 0


class _Plan(_Config):
    """`tokens` are those of a pack or of the longest row, `units` the packs or rows there are."""

    tokens: Step = 0
    units: Step = 0


class _Yaml(BaseModel):
    yaml: Annotated[str, Field(max_length=MAX_YAML_BYTES)]


class _Named(BaseModel):
    name: Name


class _Source(BaseModel):
    path: Annotated[str, Field(max_length=4096)]
    columns: dict[Name, Name] = Field({}, max_length=20)
    format: Name = ""


class _Loss(BaseModel):
    loss: Annotated[float, Field(ge=0, le=100)]


class _Order(BaseModel):
    runs: list[Name] = Field(max_length=1000)


class _Side(BaseModel):
    """A checkpoint of a run, or a LoRA of loras/."""

    run: Name = ""
    step: Step = 0
    lora: Name = ""


class _Chat(_Side):
    load: bool = False


class _Merge(_Side):
    name: Annotated[str, Field(min_length=1, max_length=300)]


class _Compare(BaseModel):
    prompt: Annotated[str, Field(min_length=1, max_length=100_000)]
    sides: list[_Side] = Field(min_length=1, max_length=2)


def add_training_routes(router: APIRouter, ctx: AppContext) -> None:
    """Everything of the page that is about trainings."""
    _add_sets(router, ctx)
    _add_draft(router, ctx)
    _add_runs(router, ctx)
    _add_acts(router, ctx)
    _add_chat(router, ctx)
    _add_merge(router, ctx)


def _add_sets(router: APIRouter, ctx: AppContext) -> None:
    @router.get("/training/datasets")
    async def listed(caller: Admin) -> dict[str, Any]:
        return {"datasets": await asyncio.to_thread(training_sets.sets_json, ctx)}

    @router.post("/training/datasets/look")
    async def look(caller: Admin, body: _Source) -> dict[str, Any]:
        source = DatasetSource(body.path, columns=body.columns, format=body.format)
        return await asyncio.to_thread(training_sets.look_json, ctx, source)

    @router.post("/training/datasets/upload")
    async def upload(
        request: Request, caller: Admin, name: Annotated[str, Query(max_length=1000)]
    ) -> dict[str, Any]:
        said = request.headers.get("content-length", "")
        size = int(said) if said.isdigit() else 0
        return await training_sets.store_upload(ctx, name, size, request.stream())

    @router.post("/training/datasets/delete")
    async def delete(caller: Admin, body: _Named) -> None:
        await asyncio.to_thread(training_sets.delete_set, ctx, body.name)


def _add_draft(router: APIRouter, ctx: AppContext) -> None:
    previews = Previews(ctx)

    @router.get("/training/setup")
    async def setup(caller: Admin) -> dict[str, Any]:
        return await asyncio.to_thread(training.setup_json, ctx)

    @router.post("/training/check")
    async def check(caller: Admin, body: _Config) -> dict[str, Any]:
        return await asyncio.to_thread(training.check_json, body.config)

    @router.post("/training/read")
    async def read(caller: Admin, body: _Yaml) -> dict[str, Any]:
        return await asyncio.to_thread(training.read_json, body.yaml)

    @router.post("/training/preview")
    async def preview(caller: Admin, body: _Row) -> dict[str, Any]:
        return await asyncio.to_thread(previews.row_json, body.config, body.index)

    @router.post("/training/lint")
    async def lint(caller: Admin, body: _Config) -> dict[str, Any]:
        return await asyncio.to_thread(previews.survey_json, body.config)

    @router.post("/training/plan")
    async def plan(caller: Admin, body: _Plan) -> dict[str, Any]:
        work = Workload(body.tokens, body.units)
        return await asyncio.to_thread(plan_json, ctx, body.config, work)


def _add_runs(router: APIRouter, ctx: AppContext) -> None:
    @router.post("/training/start")
    async def start(caller: Admin, body: _Config) -> dict[str, Any]:
        if not body.config.get("base") or not body.config.get("datasets"):
            raise InvalidInputError("A run needs a base model and data.", "Choose both.")
        return {"runs": await ctx.training.add(body.config)}

    @router.get("/training/runs")
    async def runs(caller: Admin) -> dict[str, Any]:
        return await asyncio.to_thread(training.runs_json, ctx)

    @router.get("/training/runs/{run}")
    async def one(caller: Admin, run: str) -> dict[str, Any]:
        return await asyncio.to_thread(training.run_json, ctx, run)

    @router.get("/training/runs/{run}/files/{file}")
    async def file(
        caller: Admin, run: str, file: Literal["config", "manifest", "card", "log"]
    ) -> dict[str, str]:
        return {"text": await asyncio.to_thread(training.file_text, ctx, run, file)}

    @router.post("/training/queue")
    async def reorder(caller: Admin, body: _Order) -> None:
        await ctx.training.reorder(body.runs)


def _add_acts(router: APIRouter, ctx: AppContext) -> None:
    place, queue = "/training/runs/{run}", ctx.training

    @router.post(place + "/stop")
    async def stop(caller: Admin, run: str) -> None:
        await queue.tell(run, control.Stop())

    @router.post(place + "/save")
    async def save(caller: Admin, run: str) -> None:
        await queue.tell(run, control.Save())

    @router.post(place + "/stop-loss")
    async def stop_loss(caller: Admin, run: str, body: _Loss) -> None:
        await queue.tell(run, control.StopAtLoss(body.loss))

    @router.post(place + "/cancel")
    async def cancel(caller: Admin, run: str) -> None:
        await queue.cancel(run)

    @router.post(place + "/resume")
    async def resume(caller: Admin, run: str) -> None:
        await queue.resume(run)

    @router.post(place + "/repeat")
    async def repeat(caller: Admin, run: str) -> dict[str, str]:
        return {"run": await queue.repeat(run)}

    @router.post(place + "/delete")
    async def delete(caller: Admin, run: str) -> None:
        await queue.delete(run)


def _add_chat(router: APIRouter, ctx: AppContext) -> None:
    async def side(body: _Side) -> training_chat.Side:
        if body.lora:
            return await asyncio.to_thread(training_chat.finished, ctx, body.lora, body.run)
        return await asyncio.to_thread(training_chat.checkpoint, ctx, body.run, body.step)

    @router.post("/training/chat")
    async def chat(caller: Admin, body: _Chat) -> dict[str, Any]:
        return await training_chat.chat_with(ctx, caller, await side(body), load=body.load)

    @router.post("/training/compare")
    async def compare(caller: Admin, body: _Compare) -> StreamingResponse:
        sides = [await side(one) for one in body.sides]
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        lines = training_chat.compare(ctx, body.prompt, sides)
        return StreamingResponse(lines, media_type="application/x-ndjson", headers=headers)


def _add_merge(router: APIRouter, ctx: AppContext) -> None:
    def subject(body: _Side) -> training_merge.MergeSubject:
        return training_merge.MergeSubject(body.run, body.step, body.lora)

    @router.post("/training/merge/look")
    async def look(caller: Admin, body: _Side) -> dict[str, Any]:
        return await asyncio.to_thread(training_merge.look_json, ctx, subject(body))

    @router.post("/training/merge")
    async def merge(caller: Admin, body: _Merge) -> dict[str, int]:
        return {"job": training_merge.merge(ctx, subject(body), body.name).id}
