"""Going on where a server ended that started itself anew."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from modules.context import AppContext
from modules.engine.client import AppliedAdapter, EngineState
from modules.engine.protocol import AdapterInfo
from modules.errors import LanternError
from modules.handover import Handover, LoadedModel, fingerprint
from modules.loader.options import LoadOptions
from modules.ui import models

__all__ = ["go_on", "loaded_now"]


def go_on(ctx: AppContext, taken: Handover) -> None:
    """What a launch does that another of the same program handed over to.

    What was loaded is loaded again, with its LoRAs; by other options, and another model, where
    the settings say so now.
    """
    if taken.chosen != ctx.settings.model:
        models.begin(ctx)
        return
    before = taken.loaded
    if before is None:  # by the user's wish
        return
    same = taken.settings == fingerprint(ctx.settings)
    try:
        options = _options_again(before) if same else None
        models.load_as(ctx, Path(before.path), options, _state_again(before))
    except LanternError:  # its folder is gone, say
        models.begin(ctx)


def loaded_now(ctx: AppContext) -> LoadedModel | None:
    """What is loaded, loading, or was loaded when the worker ended, to hand it over."""
    state = ctx.engine.state
    if not state.path or state.phase == "empty":
        return None
    options = dataclasses.asdict(state.command.options) if state.command else {}
    adapters = tuple((a.info.name, a.info.path, a.weight) for a in state.adapters)
    return LoadedModel(state.path, options, adapters)


def _options_again(before: LoadedModel) -> LoadOptions | None:
    """The options of a model that was handed over, as text between two processes."""
    plain: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in before.options.items()
    }
    try:
        return LoadOptions(**plain) if plain else None
    except (TypeError, LanternError):  # of another version of Lantern
        return None


def _state_again(before: LoadedModel) -> EngineState:
    applied = (AppliedAdapter(AdapterInfo(name, path, "", 0, 0.0, (), 0, 0.0), weight)
               for name, path, weight in before.adapters)  # fmt: skip
    return EngineState(path=before.path, adapters=tuple(applied))
