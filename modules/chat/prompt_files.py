"""Prompt templates: the text files in `prompts/`."""

from __future__ import annotations

from pathlib import Path

from modules.errors import InvalidNameError, NotFoundError
from modules.paths import safe_child

__all__ = ["list_prompts", "read_prompt"]

_MAX_CHARS = 200_000


def list_prompts(folder: Path) -> list[str]:
    """The names of the templates that `read_prompt` takes, sorted."""
    return sorted((p.stem for p in folder.glob("*.txt") if _readable(folder, p)), key=str.lower)


def _readable(folder: Path, path: Path) -> bool:
    try:
        return safe_child(folder, path.name).is_file()
    except InvalidNameError:
        return False


def read_prompt(folder: Path, name: str) -> str:
    """One template. Raises NotFoundError, or InvalidNameError for a name that is none."""
    path = safe_child(folder, f"{name}.txt")
    try:
        return path.read_text(encoding="utf-8")[:_MAX_CHARS]
    except (OSError, UnicodeDecodeError) as error:
        raise NotFoundError(
            f"There is no readable prompt {name!r} in prompts/.", "Choose another one."
        ) from error
