"""The memory that a run takes, and the queue that makes room for it."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modules.context import AppContext
from modules.engine.client import EngineClient
from modules.loader.catalog import find_model
from modules.loader.checkpoint import check_checkpoint
from modules.settings import Settings
from modules.training.aside import ChatModel, StepAside, needs_room
from modules.training.config_yaml import expand, from_mapping
from modules.training.launch import RunFolders, launch
from modules.training.memory import TrainingPlan, Workload, make_training_plan
from modules.training.queue import TrainingQueue
from modules.training.store import RunStore
from modules.ui.planning import machine_now, machine_without_model

__all__ = ["open_queue", "plan_json"]

_PARTS = {
    "base": ("weights", "Base"),
    "LoRA": ("adapters", "LoRA"),
    "gradients": ("gradients", "Gradients"),
    "optimizer": ("optimizer", "Optimizer"),
    "activations": ("activations", "Activations"),
    "logits": ("logits", "Logits"),
    "workspace": ("workspace", "Workspace"),
}


def open_queue(settings: Settings, engine: EngineClient) -> TrainingQueue:
    """The runs of this installation; `start` it in the event loop."""
    folders = RunFolders(settings.model_dir, settings.lora_dir, settings.user_data_dir)

    def begin(folder: Path, resume: bool) -> subprocess.Popen[bytes]:
        return launch(folder, folders, resume=resume)

    needed = needs_room(
        settings.model_dir,
        lambda: machine_now(settings),
        lambda: machine_without_model(settings, engine),
    )
    chat = ChatModel(engine)
    aside = StepAside(needed, chat.release, chat.restore)
    return TrainingQueue(RunStore(settings.paths.training), begin, aside)


def plan_json(ctx: AppContext, entries: Mapping[str, Any], work: Workload) -> dict[str, Any]:
    """The stacked bar of a draft, and of a sweep that of the run that takes the most.

    Raises ModelError and others.
    """
    configs = [from_mapping(one) for one in expand(entries)]
    models = ctx.settings.model_dir
    bases = {base: check_checkpoint(find_model(models, base)) for base in {c.base for c in configs}}
    loaded = ctx.engine.state.phase == "ready"
    without = machine_without_model(ctx.settings, ctx.engine) if loaded else None
    now = machine_now(ctx.settings)
    plans = [
        make_training_plan(config, bases[config.base], now, work, without_chat=without)
        for config in configs
    ]
    plan = max(plans, key=lambda one: (not one.fits, one.used))
    most = [f"Of the {len(plans)} runs, this is the one that takes the most."]
    return {
        "fits": plan.fits,
        "devices": [_device_json(plan)],
        "message": f"{plan.message} {plan.remedy}".strip(),
        "choices": [],
        "notes": [*(most if len(plans) > 1 else []), _figures(plan), *plan.notes],
        "micro_batch_size": plan.micro_batch_size,
    }


def _device_json(plan: TrainingPlan) -> dict[str, Any]:
    return {
        "device": plan.device,
        "name": plan.name,
        "capacity": plan.capacity,
        "used": plan.used,
        "parts": [
            {"key": _PARTS[part][0], "label": _PARTS[part][1], "bytes": size}
            for part, size in plan.parts
        ],
    }


def _figures(plan: TrainingPlan) -> str:
    rows = "row or pack" if plan.micro_batch_size == 1 else "rows or packs"
    return (
        f"Micro batch: {plan.micro_batch_size} {rows}, {plan.tokens:,} tokens at once. "
        f"{plan.parameters / 1e6:.2f} M parameters learn."
    )
