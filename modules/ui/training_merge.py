"""Whole models of what was trained: merged as a job, and what the tab is told of it."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.context import AppContext
from modules.errors import AdapterError, InvalidInputError
from modules.jobs import Job
from modules.loader.adapters import check_adapter
from modules.loader.applicable import is_quantized
from modules.loader.catalog import find_model
from modules.loader.checkpoint import check_checkpoint
from modules.paths import safe_child
from modules.training.export_job import ExportWish, run_export
from modules.training.launch import RunFolders
from modules.ui.training_chat import Side, checkpoint, finished

__all__ = ["MergeSubject", "look_json", "merge", "merges_json"]

_SHOWN = 3
"""Ended merges that the tab still tells about."""


@dataclass(frozen=True, slots=True)
class MergeSubject:
    """The checkpoint of `run` after `step`, or `lora` in loras/ where that is given."""

    run: str = ""
    step: int = 0
    lora: str = ""

    def side(self, ctx: AppContext) -> Side:
        """It as a LoRA with its base. Raises NotFoundError and AdapterError."""
        if not self.lora:
            return checkpoint(ctx, self.run, self.step)
        side = finished(ctx, self.lora)
        return Side(side.name, side.path, re.split(r"[/\\]", check_adapter(side.path).base)[-1])

    def wish(self, name: str) -> ExportWish:
        """It as the model models/`name`."""
        if self.lora:
            return ExportWish(self.lora, name)
        return ExportWish(self.run, name, self.step)


def look_json(ctx: AppContext, subject: MergeSubject) -> dict[str, Any]:
    """What a merge would make. Sizes in bytes. Raises AdapterError, ModelError, NotFoundError."""
    side = subject.side(ctx)
    if not side.base:
        raise AdapterError(f"{side.name} names no base.", "Merge it in a terminal, with --base.")
    models = ctx.settings.model_dir
    base = check_checkpoint(find_model(models, side.base))
    return {
        "title": side.name,
        "base": side.base,
        "quantized": is_quantized(base),
        "size": base.parameters * 2,
        "free": shutil.disk_usage(models).free,
        "name": _free(models, re.sub(r"[^\w.-]+", "-", side.name)),
        "taken": sorted(child.name for child in models.iterdir() if child.is_dir()),
    }


def _free(models: Path, stem: str) -> str:
    """A name for the model of a LoRA that no other has."""
    names = (f"{stem}-merged{f'-{n}' if n > 1 else ''}" for n in range(1, 1000))
    return next((name for name in names if not (models / name).exists()), "")


def merge(ctx: AppContext, subject: MergeSubject, name: str) -> Job:
    """Merge as a job, in a process of its own.

    Raises InvalidNameError, InvalidInputError for a name that is taken, NotFoundError, and
    AdapterError.
    """
    settings = ctx.settings
    if any(job.active for job in _merges(ctx)):
        raise InvalidInputError("Another model is being merged.", "Wait for it, or cancel it.")
    if safe_child(settings.model_dir, name).exists():
        raise InvalidInputError(f"There is a folder {name} already.", "Choose another name.")
    title = f"Merging {subject.side(ctx).name} into {name}"
    folders = RunFolders(settings.model_dir, settings.lora_dir, settings.user_data_dir)

    async def work(job: Job) -> None:
        job.report("Starting", 0.0)
        job.outcome = await run_export(subject.wish(name), folders, job.report)

    return ctx.jobs.submit(title, work, kind="merge", subject=name)


def merges_json(ctx: AppContext) -> list[dict[str, Any]]:
    """The merge that runs, and the last ones that ended otherwise than by a cancel."""
    jobs = [job for job in _merges(ctx) if job.state != "cancelled"]
    ended = [job for job in jobs if not job.active]
    return [
        {
            "id": job.id,
            "title": job.title,
            "name": job.subject,
            "state": job.state,
            "stage": job.stage,
            "fraction": round(job.fraction, 3),
            "outcome": job.outcome,
            "error": str(job.error) if job.error else "",
        }
        for job in jobs
        if job.active or job in ended[-_SHOWN:]
    ]


def _merges(ctx: AppContext) -> list[Job]:
    return [job for job in ctx.jobs.jobs() if job.kind == "merge"]
