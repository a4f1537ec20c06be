"""The folders in the models directory: what there is, and which one a name means."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from modules.errors import InvalidInputError, LanternError, ModelNotFoundError
from modules.loader.checkpoint import check_checkpoint
from modules.loader.download.listing import DownloadRequest, folder_name
from modules.loader.weight_files import some
from modules.paths import safe_child

__all__ = ["ModelEntry", "find_model", "find_model_or_path", "list_models"]


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A folder in the models directory.

    `size_bytes` counts its files; `problem` is one sentence, empty for a usable checkpoint.
    """

    name: str
    path: Path
    size_bytes: int
    problem: str = ""


def list_models(models_dir: Path) -> list[ModelEntry]:
    """The folders in `models_dir` by name, with what is wrong with each.

    Hidden folders, which are downloads under way, and plain files are left out.
    """
    return [_entry(models_dir, name) for name in _folders(models_dir)]


def find_model(models_dir: Path, name: str) -> Path:
    """The folder called `name` in `models_dir`.

    Raises InvalidNameError for what is no plain name, and ModelNotFoundError, naming the
    nearest neighbour, where there is no such folder.
    """
    path = safe_child(models_dir, name)
    if path.is_dir():
        return path
    names = _folders(models_dir)
    if not names:
        raise ModelNotFoundError(
            f"There is no model called {name}: {models_dir.name}/ is empty.",
            "Run python download-model.py starter, or put a checkpoint folder there.",
        )
    by_lower = {known.lower(): known for known in reversed(names)}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    raise ModelNotFoundError(
        f"There is no model called {name} in {models_dir.name}/.",
        f"Did you mean {by_lower[near[0]]}?" if near else f"There are: {some(names)}.",
    )


def find_model_or_path(models_dir: Path, text: str) -> Path:
    """As `find_model`, but a path to a folder anywhere is good too, and so is a hub's name.

    `owner/name` and `owner/name:branch` mean the folder that a download of them makes. For
    the command line only: what comes through the page or the API may never be a path.
    """
    if re.search(r"[/\\]|^[.~]", text) is None:
        return find_model(models_dir, text)
    path = Path(text).expanduser().resolve()
    if path.is_dir():
        return path
    try:
        repo, branch = DownloadRequest(model=text).repo_and_branch()
    except InvalidInputError as error:
        raise ModelNotFoundError(
            f"There is no folder {text}.",
            f"Give the path of a checkpoint folder, or the name of one in {models_dir.name}/.",
        ) from error
    return find_model(models_dir, folder_name(repo, branch))


def _folders(models_dir: Path) -> list[str]:
    if not models_dir.is_dir():
        return []
    names = (child.name for child in models_dir.iterdir() if child.is_dir())
    return sorted((n for n in names if not n.startswith(".")), key=lambda n: (n.lower(), n))


def _entry(models_dir: Path, name: str) -> ModelEntry:
    path, size, problem = models_dir / name, 0, ""
    try:
        size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
        check_checkpoint(safe_child(models_dir, name))
    except LanternError as error:
        problem = error.message
    except OSError as error:
        problem = f"{name} cannot be read: {error.strerror}."
    return ModelEntry(name, path, size, problem)
