"""A report on this Lantern and its machine, to paste into an issue: no secret, no name in it."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import platform
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules.loader.machine import Machine
from modules.settings import ROOT, Origins, Settings

__all__ = ["PACKAGES", "Facts", "commit_of", "driver_version", "version_of", "written_report"]

PACKAGES = (
    "torch", "transformers", "gradio", "peft", "safetensors", "tokenizers", "accelerate",
    "huggingface_hub", "fastapi", "uvicorn", "jinja2",
)  # fmt: skip
_COMMIT = re.compile("[0-9a-f]{40}")
_MAX_ERROR_CHARS = 1_500


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a report tells; `errors` are the latest last, `extensions` names with their states."""

    settings: Settings
    origins: Origins
    machine: Machine
    driver: str = ""
    model: str = "none"
    launch: str = ""
    extensions: Sequence[tuple[str, str]] = ()
    errors: Sequence[str] = ()
    root: Path = field(default=ROOT)


def written_report(facts: Facts) -> str:
    """The report as Markdown. Its reader takes out what a `Redactor` knows to be secret."""
    commit = commit_of(facts.root)
    parts = [
        "### Lantern",
        f"- version {version_of(facts.root)}" + (f", commit {commit[:12]}" if commit else ""),
        f"- Python {platform.python_version()} ({platform.python_implementation()}), "
        f"{platform.system()} {platform.release()} {platform.machine()}",
        f"- started {facts.launch}" if facts.launch else None,
        "",
        "### Packages",
        *[f"- {name} {version}" for name, version in _versions().items()],
        "",
        "### Machine",
        *_machine(facts),
        "",
        "### Model",
        f"- {facts.model}",
        "",
        "### Settings that differ from their defaults",
        *(_settings(facts) or ["- none"]),
        "",
        "### Extensions",
        *([f"- {name}: {state}" for name, state in facts.extensions] or ["- none"]),
        "",
        "### Latest errors",
        *([_quoted(error) for error in facts.errors] or ["- none"]),
    ]
    return "\n".join(part for part in parts if part is not None) + "\n"


def version_of(root: Path = ROOT) -> str:
    """Lantern's own version; "unknown" where its pyproject.toml is gone."""
    try:
        about = tomllib.loads((root / "pyproject.toml").read_text())
        return str(about["project"]["version"])
    except (OSError, ValueError, KeyError):
        return "unknown"


def commit_of(root: Path = ROOT) -> str:
    """The commit that is checked out, read without git; empty for what is no checkout of it."""
    git = root / ".git"
    with contextlib.suppress(OSError, ValueError):
        if git.is_file():  # a worktree, whose folder lies in that of the whole
            git = root / git.read_text().partition(":")[2].strip()
        head = (git / "HEAD").read_text().strip()
        name = head.removeprefix("ref: ")
        shared = git / "commondir"
        whole = git / shared.read_text().strip() if shared.is_file() else git
        for place in (git / name, whole / name):
            if name != head and place.is_file():
                head = place.read_text().strip()
                break
        else:
            packed = whole / "packed-refs"
            lines = packed.read_text().splitlines() if packed.is_file() else []
            head = next((line[:40] for line in lines if line[41:] == name), head)
        return head if _COMMIT.fullmatch(head) else ""
    return ""


def driver_version() -> str:
    """NVIDIA's driver, by NVML; empty where there is none."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # noqa: BLE001 - NVML's errors are made when it is imported, which may fail
        return ""
    try:
        found = pynvml.nvmlSystemGetDriverVersion()
        return found.decode(errors="replace") if isinstance(found, bytes) else str(found)
    except pynvml.NVMLError:
        return ""
    finally:
        pynvml.nvmlShutdown()


def _versions() -> dict[str, str]:
    """By the records of the installation; what is not installed is left out."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _machine(facts: Facts) -> list[str]:
    machine = facts.machine
    cards = [
        f"- card {card.index}: {card.name}, {_gigabytes(card.free)} of {_gigabytes(card.total)} "
        f"free, compute capability {'.'.join(map(str, card.capability))}"
        for card in machine.cards
    ]
    return [
        *(cards or ["- no NVIDIA card"]),
        *([f"- NVIDIA driver {facts.driver}"] if facts.driver else []),
        f"- memory: {_gigabytes(machine.ram_free)} of {_gigabytes(machine.ram_total)} free",
        f"- disk: {_gigabytes(machine.disk_free)} free",
        f"- in a terminal: {'yes' if sys.stdout and sys.stdout.isatty() else 'no'}",
    ]


def _settings(facts: Facts) -> list[str]:
    words = {"flag": "a flag", "variable": "the environment", "file": "settings.yaml"}
    found = []
    for one in dataclasses.fields(facts.settings):
        value = getattr(facts.settings, one.name)
        if value == one.default:
            continue
        shown: Any = "(hidden)" if one.metadata.get("secret") else _plain(value)
        source = words.get(facts.origins.of(one.name), "")
        found.append(f"- {one.name}: {shown}" + (f" (from {source})" if source else ""))
    return found


def _plain(value: object) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={one}" for key, one in value.items())
    return str(value)


def _quoted(error: str) -> str:
    text = error if len(error) <= _MAX_ERROR_CHARS else f"…{error[-_MAX_ERROR_CHARS:]}"
    return "```\n" + text.replace("```", "'''") + "\n```"


def _gigabytes(number: int) -> str:
    return f"{number / 1e9:.1f} GB"
