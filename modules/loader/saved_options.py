"""`user_data/models.yaml`: how a user wants each model to be loaded, by the name of its folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from modules.errors import LanternError, SettingsError, StorageError
from modules.loader.options import LoadOptions
from modules.paths import write_atomically
from modules.wording import nearest
from modules.yaml_files import read_yaml

__all__ = ["forget_options", "save_options", "saved_options"]


def saved_options(path: Path, name: str) -> LoadOptions | None:
    """What was saved for the model `name`, or None. Raises SettingsError for a damaged file."""
    entry = _read(path).get(name)
    return None if entry is None else _options(entry, f"{name} in {path.name}")


def save_options(path: Path, name: str, options: LoadOptions) -> None:
    """Keep `options` for the model `name`. Raises SettingsError or StorageError."""
    changed = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(options)
        if getattr(options, field.name) != field.default
    }
    if "gpu_memory" in changed:
        changed["gpu_memory"] = list(options.gpu_memory)
    _write(path, _read(path) | {name: changed})


def forget_options(path: Path, name: str) -> None:
    """Go back to the defaults for the model `name`. Raises SettingsError or StorageError."""
    entries = _read(path)
    if entries.pop(name, None) is not None:
        _write(path, entries)


def _read(path: Path) -> dict[str, Any]:
    return read_yaml(path) if path.is_file() else {}


def _write(path: Path, entries: dict[str, Any]) -> None:
    import yaml

    try:
        write_atomically(path, yaml.safe_dump(entries, allow_unicode=True))
    except OSError as error:
        raise StorageError(
            f"{path.name} cannot be written: {error.strerror}.", "Make its folder writable."
        ) from error


def _options(entry: object, place: str) -> LoadOptions:
    if not isinstance(entry, dict):
        raise SettingsError(
            f"{place} is no list of settings.", "Write `name: value` lines below it."
        )
    known = [field.name for field in dataclasses.fields(LoadOptions)]
    for key, value in entry.items():
        if key not in known:
            raise SettingsError(
                f"{place} has an unknown key {str(key)[:60]!r}.",
                nearest(str(key), known) or f"The keys are {', '.join(known)}.",
            )
        # Never written out below: lists full of YAML aliases would fill the memory.
        parts = value if isinstance(value, list) and key == "gpu_memory" else [value]
        if not all(isinstance(part, str | int | float) for part in parts):
            raise SettingsError(f"{key} of {place} has no plain value.", "Write `name: value`.")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
    try:
        return LoadOptions(**values)
    except LanternError as error:
        raise SettingsError(f"{place}: {error.message}", error.remedy) from error
