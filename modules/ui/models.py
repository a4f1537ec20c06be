"""What the page does with models: list, load, fetch the starter, unload."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modules.context import AppContext
from modules.engine.protocol import LoadModel
from modules.errors import LanternError, ModelNotFoundError
from modules.jobs import Job
from modules.loader.checkpoint import (
    check_checkpoint,
    find_model,
    find_model_or_path,
    list_models,
)
from modules.loader.starter import STARTER, fetch_starter

__all__ = [
    "begin",
    "engine_json",
    "jobs_json",
    "load",
    "load_again",
    "load_command",
    "load_starter",
    "models_json",
]


def load_command(ctx: AppContext, path: Path) -> LoadModel:
    """How this launch loads a checkpoint."""
    return LoadModel(
        path=str(path),
        device="cpu" if ctx.settings.cpu else "auto",
        dtype="bfloat16" if ctx.settings.bf16 else "auto",
    )


def load(ctx: AppContext, name: str) -> Job:
    """Load a model from models/ as a job.

    Raises ModelError at once if it is not there, is not a model, or is not safe.
    """
    return _load_job(ctx, find_model(ctx.settings.model_dir, name))


def load_again(ctx: AppContext) -> Job:
    """Load what was loaded, or was to be, when the worker ended. Raises ModelError."""
    if not ctx.engine.state.path:
        raise ModelNotFoundError("No model was loaded.", "Choose one at the top of the page.")
    return _load_job(ctx, Path(ctx.engine.state.path))


def _load_job(ctx: AppContext, path: Path) -> Job:
    check_checkpoint(path)
    return ctx.jobs.submit(f"Loading {path.name}", lambda job: _load(ctx, path, job))


def load_starter(ctx: AppContext) -> Job:
    """Load the starter as a job, fetching it first if it is not there."""

    async def work(job: Job) -> None:
        await _load(ctx, await fetch(ctx, job), job)

    return ctx.jobs.submit("Fetching the starter", work)


def begin(ctx: AppContext) -> None:
    """What a launch does by itself: load a model, fetching the starter if there is none.

    The given `--model`, else the only model there is, else the starter.
    """
    ctx.jobs.submit("Looking for a model", lambda job: _begin(ctx, job))


async def _begin(ctx: AppContext, job: Job) -> None:
    settings = ctx.settings
    entries = [entry for entry in list_models(settings.model_dir) if not entry.problem]
    if settings.model:
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
    check_checkpoint(path)
    job.title = f"Loading {path.name}"
    await _load(ctx, path, job)


async def fetch(ctx: AppContext, job: Job) -> Path:
    """Fetch the starter model within a job."""
    job.title = f"Fetching {STARTER.summary}"
    return await asyncio.to_thread(fetch_starter, ctx.settings.model_dir, job.report, job.cancelled)


async def _load(ctx: AppContext, path: Path, job: Job) -> None:
    following = asyncio.create_task(_follow(ctx, job))
    try:
        await ctx.engine.load(load_command(ctx, path))
    finally:
        following.cancel()


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
    }


def _details(ctx: AppContext) -> list[str]:
    info = ctx.engine.state.info
    if info is None:
        return []
    kind = info.dtype if info.quantization == "none" else info.quantization
    return [
        f"{_count(info.parameters)} parameters",
        kind,
        f"context {info.context_length:,}",
        f"{info.memory / 1e9:.2f} GB on {info.device}",
    ]


def _count(number: int) -> str:
    return f"{number / 1e9:.1f}B" if number >= 1e9 else f"{number / 1e6:.0f}M"


def jobs_json(ctx: AppContext) -> list[dict[str, Any]]:
    """The jobs as the strip shows them: those that run, and the last if it failed."""
    jobs = ctx.jobs.jobs()
    shown = [job for job in jobs if job.active]
    if not shown and jobs and jobs[-1].state == "failed":
        shown = [jobs[-1]]
    return [
        {
            "id": job.id,
            "title": job.title,
            "stage": job.stage,
            "fraction": round(job.fraction, 3),
            "state": job.state,
            "error": _error_json(job.error),
        }
        for job in shown
    ]


def models_json(ctx: AppContext) -> dict[str, Any]:
    """What lies in models/, and what the starter would be if it does not."""
    entries = list_models(ctx.settings.model_dir)
    listed = [
        {
            "name": entry.name,
            "size": f"{entry.size_bytes / 1e9:.2f} GB",
            "problem": entry.problem,
        }
        for entry in entries
    ]
    there = STARTER.name in {entry.name for entry in entries}
    return {"models": listed, "starter": "" if there else STARTER.summary}


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
            if told.get(job.id) != line:
                told[job.id] = line
                say(line)
