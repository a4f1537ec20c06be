"""What the page does with models: list, load, fetch the starter, unload."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modules.context import AppContext
from modules.engine.client import EngineState
from modules.engine.swap import apply_again
from modules.errors import LanternError, ModelNotFoundError
from modules.jobs import Job
from modules.loader.catalog import find_model, find_model_or_path, list_models
from modules.loader.checkpoint import check_checkpoint
from modules.loader.inspect import Inspection
from modules.loader.options import LoadOptions
from modules.loader.starter import STARTER, fetch_starter
from modules.ui.adapters import applied_json, apply_at_start
from modules.ui.planning import load_command, options_for, plan_load, summary
from modules.ui.served import begin_served, details, load_served

__all__ = [
    "begin",
    "engine_json",
    "jobs_json",
    "load",
    "load_again",
    "load_as",
    "load_starter",
    "models_json",
]


def load(ctx: AppContext, name: str, options: LoadOptions | None = None) -> Job:
    """Load a model from models/ as a job, by `options` or else as `options_for` has it.

    Raises ModelError at once if it is not there, is not a model, or is not safe. What does
    not fit into memory is a failed job, and the present model stays.
    """
    if ctx.engine.catalog is not None:
        return load_served(ctx, name)
    return load_as(ctx, find_model(ctx.settings.model_dir, name), options)


def load_again(ctx: AppContext) -> Job:
    """Load what was loaded when the worker ended, or was to be, with its LoRAs.

    Raises ModelError.
    """
    state = ctx.engine.state
    if not state.path:
        raise ModelNotFoundError("No model was loaded.", "Choose one at the top of the page.")
    if ctx.engine.catalog is not None:
        return load_served(ctx, state.path, state)
    options = state.command.options if state.command else None
    return load_as(ctx, Path(state.path), options, state)


def load_as(
    ctx: AppContext, path: Path, options: LoadOptions | None, before: EngineState | None = None
) -> Job:
    """Load the model in a folder as a job; the LoRAs of the state `before` are applied again.

    Raises ModelError.
    """
    options = options or options_for(ctx, path)
    inspection = check_checkpoint(path, options)

    async def work(job: Job) -> None:
        await _load(ctx, inspection, options, job)
        lost = await apply_again(ctx.engine, before) if before else []
        if lost:
            job.notes = (*job.notes, f"Not applied again: {', '.join(lost)}.")

    return ctx.jobs.submit(f"Loading {path.name}", work, kind="load")


def load_starter(ctx: AppContext) -> Job:
    """Load the starter as a job, fetching it first if it is not there."""

    async def work(job: Job) -> None:
        await _load_found(ctx, await fetch(ctx, job), job)

    return ctx.jobs.submit("Fetching the starter", work, kind="load")


def begin(ctx: AppContext) -> None:
    """What a launch does by itself: load a model, fetching the starter if there is none.

    The given `--model`, else the only model there is, else the starter.
    """
    ctx.jobs.submit("Looking for a model", lambda job: _begin(ctx, job), kind="load")


async def _begin(ctx: AppContext, job: Job) -> None:
    settings = ctx.settings
    if ctx.engine.catalog is not None:
        await begin_served(ctx, ctx.engine.catalog, job)
        await apply_at_start(ctx, job)
        return
    entries = [entry for entry in list_models(settings.model_dir) if not entry.problem]
    if settings.model == "starter":
        path = await fetch(ctx, job)
    elif settings.model:
        path = find_model_or_path(settings.model_dir, settings.model)
    elif not entries:
        if settings.no_starter:
            raise ModelNotFoundError(
                f"There is no model in {settings.model_dir}.",
                "Put a model folder there, or start without --no-starter to fetch a small one.",
            )
        path = await fetch(ctx, job)
    else:
        starter = [entry for entry in entries if entry.name == STARTER.name]
        path = (starter or entries)[0].path
    await _load_found(ctx, path, job)
    await apply_at_start(ctx, job)


async def fetch(ctx: AppContext, job: Job) -> Path:
    """Fetch the starter model within a job."""
    job.title = f"Fetching {STARTER.summary}"
    return await asyncio.to_thread(fetch_starter, ctx.settings.model_dir, job.report, job.cancelled)


async def _load_found(ctx: AppContext, path: Path, job: Job) -> None:
    options = options_for(ctx, path)
    inspection = check_checkpoint(path, options)
    job.title = f"Loading {path.name}"
    await _load(ctx, inspection, options, job)


async def _load(ctx: AppContext, inspection: Inspection, options: LoadOptions, job: Job) -> None:
    """Plan first, so that the present model is only ended for one that fits."""
    plan = await asyncio.to_thread(plan_load, ctx, inspection, options)
    command = load_command(ctx, inspection.path, plan)
    await asyncio.to_thread(shutil.rmtree, ctx.settings.offload_dir, ignore_errors=True)
    following = asyncio.create_task(_follow(ctx, job))
    try:
        await ctx.engine.load(command)
    finally:
        following.cancel()
    job.outcome, job.notes = summary(inspection.name, plan), plan.notes


async def _follow(ctx: AppContext, job: Job) -> None:
    """Report the engine's progress as the job's."""
    seen = -1
    while True:
        seen = await ctx.engine.changed.wait(seen)
        job.report(ctx.engine.state.stage, ctx.engine.state.fraction)


def engine_json(ctx: AppContext, *, admin: bool) -> dict[str, Any]:
    """The engine's state as the strip shows it."""
    state = ctx.engine.state
    info = state.info
    return {
        "phase": state.phase,
        "model": info.name if info else Path(state.path).name,
        "details": _details(ctx),
        "error": _error_json(state.error),
        "admin": admin,
        "folder": _folder(ctx),
        "loaded": _folder(ctx) if state.phase == "ready" else "",
        "adapters": applied_json(ctx),
        "unsupported": info.unsupported if info else (),
    }


def _folder(ctx: AppContext) -> str:
    """The name in models/ of what the engine is about; empty for a folder from elsewhere.

    Of a server's model, the name that it has there.
    """
    if ctx.engine.catalog is not None:
        return ctx.engine.state.path
    path = Path(ctx.engine.state.path)
    return path.name if path.parent == ctx.settings.model_dir else ""


def _details(ctx: AppContext) -> list[str]:
    info = ctx.engine.state.info
    if info is None:
        return []
    loras = [f"LoRA {a.info.name} at {a.weight:g}" for a in ctx.engine.state.adapters if a.weight]
    if info.server is not None:
        return [*details(info), *loras]
    kind = info.dtype if info.quantization == "none" else info.quantization
    return [
        f"{_count(info.parameters)} parameters",
        kind,
        f"context {info.context_length:,}",
        f"{info.memory / 1e9:.2f} GB on {info.device}",
        *loras,
    ]


def _count(number: int) -> str:
    return f"{number / 1e9:.1f}B" if number >= 1e9 else f"{number / 1e6:.0f}M"


def jobs_json(ctx: AppContext) -> list[dict[str, Any]]:
    """The jobs as the strip shows them: those that run, and the last if there is more to say."""
    jobs = ctx.jobs.jobs()
    shown = [job for job in jobs if job.active]
    # The Model tab tells of downloads, the Training tab of merges, the terminal of the share link.
    others = ("download", "merge", "share")
    ended = [job for job in jobs if not job.active and job.kind not in others]
    if not shown and ended and (ended[-1].state == "failed" or ended[-1].notes):
        shown = [ended[-1]]
    return [
        {
            "id": job.id,
            "kind": job.kind,
            "title": job.title,
            "stage": job.stage,
            "fraction": round(job.fraction, 3),
            "state": job.state,
            "error": _error_json(job.error),
            "told": " ".join(job.notes),  # the strip itself says what is loaded
        }
        for job in shown
    ]


def models_json(ctx: AppContext) -> dict[str, Any]:
    """What lies in models/, and what the starter would be if it does not."""
    entries = list_models(ctx.settings.model_dir)
    listed = [
        {
            "name": entry.name,
            "size": _size(entry.size_bytes),
            "problem": entry.problem,
        }
        for entry in entries
    ]
    there = STARTER.name in {entry.name for entry in entries}
    return {"models": listed, "starter": "" if there else STARTER.summary}


def _size(number: int) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def _error_json(error: LanternError | None) -> dict[str, str] | None:
    return {"message": error.message, "remedy": error.remedy} if error else None


async def narrate(ctx: AppContext, say: Callable[[str], None]) -> None:
    """Tell the terminal what the jobs do: a line when one begins, and one when it ends."""
    told: dict[int, str] = {}
    seen = -1
    while True:
        seen = await ctx.jobs.changed.wait(seen)
        for job in ctx.jobs.jobs():
            end = {"done": "done.", "failed": str(job.error), "cancelled": "cancelled."}
            line = f"{job.title}: {end[job.state]}" if job.state in end else f"{job.title}…"
            if job.outcome:
                line = " ".join([job.outcome, *job.notes])
            if told.get(job.id) != line:
                told[job.id] = line
                say(line)
