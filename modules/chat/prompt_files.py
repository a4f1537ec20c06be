"""Prompt templates: the text files in `prompts/`."""

from __future__ import annotations

from pathlib import Path

from modules.errors import InvalidInputError, InvalidNameError, NotFoundError, StorageError
from modules.paths import safe_child, write_atomically

__all__ = ["MAX_PROMPT_CHARS", "delete_prompt", "list_prompts", "read_prompt", "save_prompt"]

MAX_PROMPT_CHARS = 200_000
_MAX_BYTES = 4 * MAX_PROMPT_CHARS


def list_prompts(folder: Path) -> list[str]:
    """The names of the templates that `read_prompt` takes, sorted."""
    return sorted((p.stem for p in folder.glob("*.txt") if _readable(folder, p)), key=str.lower)


def _readable(folder: Path, path: Path) -> bool:
    try:
        return safe_child(folder, path.name).is_file()
    except InvalidNameError:
        return False


def read_prompt(folder: Path, name: str) -> str:
    """One template.

    Raises NotFoundError, InvalidNameError for a name that is none, or InvalidInputError for a
    file that is too large or is no text.
    """
    path = safe_child(folder, f"{name}.txt")
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise NotFoundError(
            f"There is no readable prompt {name!r} in prompts/.", "Choose another one."
        ) from error
    if len(raw) > _MAX_BYTES:
        raise _too_long(f"prompts/{path.name}")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"prompts/{path.name} is no UTF-8 text, from byte {error.start:,} on.",
            "Save it as UTF-8 in an editor, or choose another one.",
        ) from error
    if len(text) > MAX_PROMPT_CHARS:
        raise _too_long(f"prompts/{path.name}")
    return text.replace("\r\n", "\n")


def save_prompt(folder: Path, name: str, text: str, *, replace: bool) -> None:
    """Keep a template; over one of this name only with `replace`.

    Raises InvalidNameError, InvalidInputError or StorageError.
    """
    path = safe_child(folder, f"{name}.txt")
    if len(text) > MAX_PROMPT_CHARS:
        raise _too_long("The prompt")
    if path.exists() and not replace:
        raise InvalidInputError(
            f"There is a prompt {name!r} already.", "Choose another name, or replace it."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    except OSError as error:
        raise StorageError(
            f"The prompt cannot be written: {error.strerror}.", f"Make {folder} writable."
        ) from error


def delete_prompt(folder: Path, name: str) -> None:
    """Delete a template. Raises NotFoundError, InvalidNameError or StorageError."""
    try:
        safe_child(folder, f"{name}.txt").unlink()
    except FileNotFoundError as error:
        raise NotFoundError(f"There is no prompt {name!r}.", "It may be deleted by now.") from error
    except OSError as error:
        raise StorageError(
            f"The prompt cannot be deleted: {error.strerror}.", "Delete the file by hand."
        ) from error


def _too_long(what: str) -> InvalidInputError:
    return InvalidInputError(
        f"{what} has more than {MAX_PROMPT_CHARS:,} characters.", "Use a shorter text."
    )
