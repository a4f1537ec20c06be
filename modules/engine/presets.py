"""Presets: ways of sampling, as small YAML files that say what differs from neutral.

Those in `presets/` come with Lantern and are never written to; those that users save are in
`user_data/presets/`. Where both have a name, the user's counts, and deleting it brings the
shipped one back.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.engine.params import SamplingParams, knobs
from modules.errors import (
    InvalidNameError,
    LanternError,
    NotFoundError,
    SettingsError,
    StorageError,
)
from modules.paths import Paths, safe_child, write_atomically
from modules.wording import nearest
from modules.yaml_files import read_yaml

__all__ = [
    "Preset",
    "delete_preset",
    "in_presets",
    "list_presets",
    "load_preset",
    "save_preset",
]

_NOT_SAMPLING = frozenset(
    {
        "max_new_tokens",
        "stop",
        "seed",
        "truncation_length",
        "negative_prompt",
        "structure",
        "structure_text",
    }
)
_FIRST = ("Balanced", "Precise", "Creative")
_ABOUT_CHARS = 200


@dataclass(frozen=True, slots=True)
class Preset:
    """A preset that can be chosen: whose it is, and what its first line says about it."""

    name: str
    own: bool
    """Whether it is in `user_data/presets/`."""
    shipped: bool
    """Whether one of this name comes with Lantern."""
    about: str


def in_presets() -> list[str]:
    """The fields that presets set; the others belong to a task, not to a way of sampling."""
    return [name for name in knobs() if name not in _NOT_SAMPLING]


def list_presets(paths: Paths) -> list[Preset]:
    """All presets: those to begin with, then by name. Their contents are not checked."""
    own, shipped = _names(paths.own_presets), _names(paths.presets)
    presets = [
        Preset(name, name in own, name in shipped, _about(_file(paths, name)))
        for name in own | shipped
    ]
    order = {name: place for place, name in enumerate(_FIRST)}
    return sorted(presets, key=lambda p: (order.get(p.name, len(order)), p.name.lower()))


def load_preset(paths: Paths, name: str) -> SamplingParams:
    """A preset over neutral values.

    Raises NotFoundError, InvalidNameError, or SettingsError that names the file and the key.
    """
    path = _file(paths, name)
    if not path.is_file():
        raise NotFoundError(f"There is no preset {name!r}.", "Choose another one.")
    known = in_presets()
    entries = read_yaml(path)
    for key, value in entries.items():
        if key not in known:
            raise SettingsError(
                f"The preset {path.name} has an unknown key {str(key)[:60]!r}.",
                nearest(str(key), known) or "Remove the line.",
            )
        if not _plain(value):
            raise SettingsError(
                f"{key} of the preset {path.name} has no plain value.", "Write `name: value`."
            )
    try:
        return SamplingParams.neutral(**entries)
    except LanternError as error:
        raise SettingsError(f"The preset {path.name}: {error.message}", error.remedy) from error


def save_preset(paths: Paths, name: str, params: SamplingParams) -> None:
    """Keep the way of sampling of `params` as the user's preset `name`, over an earlier one.

    Raises InvalidNameError or StorageError.
    """
    import yaml

    path = safe_child(paths.own_presets, f"{name}.yaml")
    neutral = SamplingParams.neutral()
    changed: dict[str, Any] = {}
    for field in in_presets():
        value = getattr(params, field)
        if value != getattr(neutral, field):
            changed[field] = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(changed, allow_unicode=True, sort_keys=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    except OSError as error:
        raise StorageError(
            f"The preset cannot be written: {error.strerror}.", f"Make {path.parent} writable."
        ) from error


def delete_preset(paths: Paths, name: str) -> None:
    """Delete the user's preset `name`; a shipped one is never deleted.

    Raises NotFoundError, InvalidNameError or StorageError.
    """
    try:
        safe_child(paths.own_presets, f"{name}.yaml").unlink()
    except FileNotFoundError as error:
        raise NotFoundError(
            f"You have no preset {name!r}.", "Those that come with Lantern stay."
        ) from error
    except OSError as error:
        raise StorageError(
            f"The preset cannot be deleted: {error.strerror}.", "Delete the file by hand."
        ) from error


def _file(paths: Paths, name: str) -> Path:
    own = safe_child(paths.own_presets, f"{name}.yaml")
    return own if own.is_file() else safe_child(paths.presets, f"{name}.yaml")


def _names(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.yaml") if _readable(folder, path)}


def _readable(folder: Path, path: Path) -> bool:
    try:
        return safe_child(folder, path.name).is_file()
    except InvalidNameError:
        return False


def _about(path: Path) -> str:
    """The comment in the first line, if it is one."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            first = file.readline(_ABOUT_CHARS)
    except OSError:
        return ""
    return first[1:].strip() if first.startswith("#") else ""


def _plain(value: object) -> bool:
    """Whether `value` can be shown: lists full of YAML aliases would fill the memory."""
    parts = value if isinstance(value, list) else [value]
    return all(
        isinstance(part, str | float) or (isinstance(part, int) and part.bit_length() <= 64)
        for part in parts
    )
