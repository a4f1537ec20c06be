"""Where Lantern's files lie, and the one way from a foreign name to a path."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from modules.errors import InvalidNameError, StorageError

__all__ = ["Paths", "safe_child", "write_atomically"]

_ALLOWED = re.compile(r"[A-Za-z0-9][\w .+()@=,'-]{0,199}", re.ASCII)
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Paths:
    """The folders of one installation."""

    root: Path
    models: Path
    prompts: Path
    user_data: Path

    @property
    def database(self) -> Path:
        """The SQLite file with all chats."""
        return self.user_data / "lantern.sqlite3"

    @property
    def presets(self) -> Path:
        """The presets that come with Lantern."""
        return self.root / "presets"

    @property
    def own_presets(self) -> Path:
        """The presets that users save; made with the first of them."""
        return self.user_data / "presets"

    @property
    def characters(self) -> Path:
        """The characters that come with Lantern."""
        return self.root / "characters"

    @property
    def own_characters(self) -> Path:
        """The characters that users keep; made with the first of them."""
        return self.user_data / "characters"

    @property
    def datasets(self) -> Path:
        """The data sets that users upload; made with the first of them."""
        return self.user_data / "datasets"

    @property
    def training(self) -> Path:
        """The runs of trainings; made with the first of them."""
        return self.user_data / "training"

    def prepare(self) -> None:
        """Make the folders that the program writes to.

        Raises StorageError when one cannot be made, or `user_data` is read-only.
        """
        for folder, flag in ((self.user_data, "--user-data-dir"), (self.models, "--model-dir")):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                if folder is self.user_data:
                    with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-"):
                        pass
            except OSError as error:
                raise StorageError(
                    f"Lantern cannot write to {folder}: {error.strerror}.",
                    f"Make the folder writable, or give another one with {flag}.",
                ) from error


def safe_child(root: Path, name: str) -> Path:
    """The path of `name` directly below `root`, for a name that came from outside.

    Raises InvalidNameError for anything that is not a plain file name, or that
    resolves (through a link, say) to a place outside `root`.
    """
    if not _ALLOWED.fullmatch(name) or name.endswith((".", " ")) or _RESERVED.fullmatch(name):
        shown = name if len(name) <= 60 else name[:57] + "..."
        raise InvalidNameError(
            f"{shown!r} cannot be used as a name.",
            "Use letters, digits, spaces and . _ - + ( ), beginning with a letter or digit.",
            field="name",
        )
    child = root / name
    try:
        inside = child.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # a link that leads to itself
        inside = False
    if not inside:
        raise InvalidNameError(
            f"{name!r} leads out of {root.name}/.",
            "Remove the link, or move its target into the folder.",
            field="name",
        )
    return child


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace `path` by `content`, so that a crash leaves the old file or the new one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
