"""How a model is talked to, as the Model tab shows it: template, reason, check, and choice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from modules.chat.template_check import check_template
from modules.chat.template_library import LIBRARY, gather_evidence, pick
from modules.context import AppContext
from modules.engine.protocol import ModelInfo
from modules.errors import EngineError
from modules.loader.catalog import find_model
from modules.loader.inspect import inspect_checkpoint
from modules.ui.served import served_template_json

__all__ = ["template_json"]


async def template_json(ctx: AppContext, name: str) -> dict[str, Any]:
    """The template of the model `name`.

    `check` holds what is wrong with it, or null while the model is not loaded: only its
    tokenizer can tell. Raises ModelNotFoundError and SettingsError.
    """
    if ctx.engine.catalog is not None:
        return await served_template_json(ctx, name)
    path = find_model(ctx.settings.model_dir, name)
    shown = await asyncio.to_thread(_choice, ctx, path)
    state = ctx.engine.state
    if state.phase != "ready" or state.info is None or Path(state.path) != path:
        return shown | {"check": None}
    return shown | {"check": await _checked(ctx, state.info)}


async def _checked(ctx: AppContext, info: ModelInfo) -> list[str] | None:
    template = await asyncio.to_thread(ctx.templates.template_of, info)
    try:
        return await check_template(ctx.engine, info, template)
    except EngineError:  # it was unloaded meanwhile
        return None


def _choice(ctx: AppContext, path: Path) -> dict[str, Any]:
    chosen = ctx.templates.chosen(path.name)
    inspection = inspect_checkpoint(path)
    if inspection.template_source:
        automatic = "the model's own"
        reason, origin = f"The model brings its own, in {inspection.template_source}.", ""
    else:
        picked = pick(gather_evidence(path, inspection.architecture))
        automatic = picked.template.label
        reason, origin = picked.reason, picked.template.origin
    if chosen:
        reason, origin = "Chosen by hand.", LIBRARY[chosen].origin
    return {
        "chosen": chosen,
        "choices": [
            ("", f"Automatic: {automatic}"),
            *((template.key, template.label) for template in LIBRARY.values()),
        ],
        "reason": reason,
        "origin": origin,
    }
