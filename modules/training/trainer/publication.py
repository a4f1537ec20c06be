"""The finished LoRA in loras/, and the manifest that says where it came from."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import platform
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modules.errors import StorageError
from modules.loader.adapters import MANIFEST, WEIGHTS
from modules.loader.publish import publish
from modules.paths import safe_child, write_atomically
from modules.training.trainer.checkpoint import write_adapter, writing
from modules.training.trainer.lora import Lora

__all__ = ["Manifest", "ancestry_of", "publish_adapter"]

_PACKAGES = ("torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers")


class Manifest:
    """`manifest.json` of a run: what went in, and how it ended. Kept whole on the disk."""

    def __init__(self, folder: Path, values: Mapping[str, Any]) -> None:
        self._path = folder / "manifest.json"
        before = _object(self._path)
        began = {"started": before["started"]} if "started" in before else {}
        self.values: dict[str, Any] = {**values, "versions": _versions(), **began}

    def update(self, **values: Any) -> None:
        """Set some values and write the file. Raises StorageError where the disk is full."""
        self.values |= values
        try:
            write_atomically(self._path, json.dumps(self.values, indent=2, ensure_ascii=False))
        except OSError as error:
            raise StorageError(
                f"The manifest of the run cannot be written: {error.strerror}.",
                "Make room on the disk, and resume the run.",
            ) from error


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def ancestry_of(folder: Path) -> list[dict[str, Any]]:
    """The LoRA in `folder` and those that it was made of, the oldest first."""
    about = _object(folder / MANIFEST)
    earlier = about.get("ancestry")
    with (folder / WEIGHTS).open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    this = {"adapter": folder.name, "sha256": sha256}
    this |= {key: about[key] for key in ("run", "step", "data") if key in about}
    return [*(earlier if isinstance(earlier, list) else []), this]


def publish_adapter(
    loras: Path, name: str, lora: Lora, about: Mapping[str, Any], card: Callable[[str], str]
) -> str:
    """Write the LoRA to loras/`name`, with its model card; returns the name that it got.

    A folder of that name is left alone (the new one gets -2, -3 and so on), unless it is of
    the same run, which `about` names. Raises StorageError.
    """
    with writing(loras, "The LoRA") as hidden:
        write_adapter(hidden, lora, about)
        target = _free(loras, name, str(about["run"]))
        (hidden / "README.md").write_text(card(target.name), encoding="utf-8")
        aside = hidden.with_name(f"{hidden.name}-old")
        if target.exists():
            target.replace(aside)
        publish(hidden, target)
        shutil.rmtree(aside, ignore_errors=True)
    return target.name


def _free(loras: Path, name: str, run: str) -> Path:
    number, candidate = 1, name
    while True:
        target = safe_child(loras, candidate)
        if not target.exists() or _object(target / MANIFEST).get("run") == run:
            return target
        number += 1
        candidate = f"{name}-{number}"


def _object(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
