"""What the page does with LoRAs: list those in loras/, and lay them over the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modules.context import AppContext
from modules.engine.protocol import AdapterInfo
from modules.errors import LanternError
from modules.jobs import Job
from modules.loader.adapters import AdapterEntry, find_adapter, list_adapters

__all__ = ["adapters_json", "applied_json", "apply_adapter", "apply_at_start"]


def adapters_json(ctx: AppContext) -> dict[str, Any]:
    """The folders in loras/, judged against the model that is loaded."""
    state, folder = ctx.engine.state, ctx.settings.lora_dir
    base = Path(state.path) if state.info else None
    return {
        "folder": folder.name,
        "adapters": [_json(entry) for entry in list_adapters(folder, base)],
    }


def _json(entry: AdapterEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "kind": entry.kind,
        "rank": entry.rank,
        "targets": entry.targets,
        "base": entry.base,
        "warning": entry.warning,
        "problem": entry.problem,
    }


def applied_json(ctx: AppContext) -> list[dict[str, Any]]:
    """The LoRAs over the model; `change` is that of the logits at weight 1, 0.12 for 12 %."""
    state = ctx.engine.state
    return [
        {
            "name": adapter.info.name,
            "weight": adapter.weight,
            "change": adapter.info.change,
            "note": adapter.info.note,
        }
        for adapter in (state.adapters if state.phase == "ready" else ())
    ]


async def apply_adapter(ctx: AppContext, name: str) -> AdapterInfo:
    """Lay a LoRA from loras/ over the model, with weight 1, or one that its server has.

    Raises AdapterError.
    """
    if ctx.engine.catalog is not None:
        return await ctx.engine.load_adapter(name, name)
    return await ctx.engine.load_adapter(name, str(find_adapter(ctx.settings.lora_dir, name)))


async def apply_at_start(ctx: AppContext, job: Job) -> None:
    """Apply those that --lora names; the job tells of each, and what is refused ends nothing."""
    for name in ctx.settings.lora:
        job.report(f"Applying the LoRA {name}", 1.0)
        try:
            info = await apply_adapter(ctx, name)
        except LanternError as error:
            job.notes = (*job.notes, str(error))
        else:
            much = f"; it changes the logits by {info.change:.1%}" if info.change else ""
            told = f"The LoRA {name} is applied{much}."
            job.outcome = f"{job.outcome} {told}"
            job.notes = (*job.notes, info.note) if info.note else job.notes
