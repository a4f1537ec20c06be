"""What the page says about extensions, and what it saves of them in settings.yaml."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modules.context import AppContext
from modules.errors import LanternError, NotFoundError
from modules.extensions.chosen import Chosen, chosen_of, is_plain
from modules.extensions.discover import Found, discover
from modules.extensions.manager import ExtensionInfo
from modules.settings import ROOT, read_again
from modules.settings_file import Plain, save_settings, saved_values
from modules.ui.extension_widgets import ExtensionWidgets

__all__ = ["brief_json", "keep", "list_json"]

_UNKNOWN: Any = object()


def brief_json(ctx: AppContext, *, admin: bool) -> dict[str, Any]:
    """What every open tab is told when something about extensions changes.

    Guests are not told what there is; that tokens have colours, they see.
    """
    return {
        "version": ctx.extensions.changed.version,
        "on": ctx.extensions.names_on() if admin else [],
        "colors": "token_colors" in ctx.extensions.declared,
    }


async def list_json(ctx: AppContext, widgets: ExtensionWidgets) -> dict[str, Any]:
    """Every extension in its order, and what the next launch would make of it.

    `fault` says what is wrong with settings.yaml, where it is: then nothing can be saved.
    """
    infos = ctx.extensions.infos()
    after, found, fault = await asyncio.to_thread(_next_launch, ctx)
    here = chosen_of(ctx.settings, ctx.host.origins)
    return {
        "folder": ctx.host.redact(str(ctx.settings.extension_dir).removeprefix(f"{ROOT}/")),
        "fault": fault,
        "extensions": [
            _extension_json(ctx, info, here, after, found.get(info.name))
            | {"widgets": _widgets(info, widgets)}
            for info in infos
        ],
    }


def _next_launch(ctx: AppContext) -> tuple[Chosen | None, dict[str, Found], str]:
    found = discover(ctx.settings.extension_dir)
    try:
        return chosen_of(*read_again(ctx.host.origins)), found, ""
    except LanternError as error:
        return None, found, str(error)


def _extension_json(
    ctx: AppContext,
    info: ExtensionInfo,
    here: Chosen,
    after: Chosen | None,
    found: Found | None,
) -> dict[str, Any]:
    withheld = info.state == "off" and info.name in here.withheld
    kept = after.params.get(info.name, {}) if after else {}
    written = found.params if found else {}
    changed = {key for key in info.params if _differs(info.params[key], key, kept, written)}
    return {
        "name": info.name,
        "title": info.display_name,
        "about": info.about,
        "state": "withheld" if withheld else info.state,
        "error": info.error,
        "remedy": info.remedy,
        "hooks": list(info.hooks),
        "params": [
            _param_json(key, value) | {"changed": after is not None and key in changed}
            for key, value in info.params.items()
        ],
        "flag": info.name in ctx.host.origins.extensions,
        "next": None if after is None else _after(info.name, after),
    }


def _after(name: str, after: Chosen) -> str:
    """How the next launch has it."""
    if name in after.names:
        return "on"
    return "withheld" if name in after.withheld else "off"


def _widgets(info: ExtensionInfo, widgets: ExtensionWidgets) -> str:
    """Whether the page has the extension's widgets: yes, none, or after a restart."""
    if not info.has_ui:
        return "none"
    return "here" if widgets.shows(info.name) else "restart" if info.state == "on" else "none"


def _param_json(key: str, value: Any) -> dict[str, Any]:
    match value:
        case bool():
            kind = "switch"
        case int() | float():
            kind = "number"
            value = value if math.isfinite(value) else None
        case str():
            kind = "text"
        case _:
            kind, value = "other", str(value)[:200]
    whole = kind == "number" and isinstance(value, int)
    return {"key": key, "kind": kind, "value": value, "whole": whole}


def _differs(value: Any, key: str, kept: Mapping[str, Any], written: Mapping[str, Any]) -> bool:
    """Whether the next launch would have another value, as far as that is known without it."""
    there = kept.get(key, written.get(key, _UNKNOWN))
    return there is not _UNKNOWN and there != value


def keep(ctx: AppContext, name: str) -> None:
    """Have the next launch begin with this extension as it is now: on or off, and its params.

    Raises NotFoundError, SettingsError and StorageError.
    """
    info = next((one for one in ctx.extensions.infos() if one.name == name), None)
    if info is None:
        raise NotFoundError(f"There is no extension {name[:60]!r}.", "Look at the list again.")
    found = discover(ctx.settings.extension_dir).get(name)
    written = found.params if found else {}
    others: dict[str, Plain | None] = {}
    for key, value in info.params.items():
        if isinstance(value, str | int | float) and is_plain(value):
            others[f"{name}-{key}"] = None if written.get(key, _UNKNOWN) == value else value
    save_settings(ctx.host.origins, {"extensions": _names(ctx.host.origins.file, info)}, others)


def _names(file: Path, info: ExtensionInfo) -> list[str]:
    """The list in the file, with or without this extension; the others keep their places."""
    saved = saved_values(file).get("extensions") or []
    names = [str(one) for one in (saved if isinstance(saved, list) else [saved])]
    if info.state != "on":
        return [one for one in names if one != info.name]
    return names if info.name in names else [*names, info.name]
