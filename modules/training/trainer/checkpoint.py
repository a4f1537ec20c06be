"""Checkpoints: a LoRA as it is after a step, with all that a resumed run needs.

A checkpoint appears under its name when all of it is on the disk. Tensors are safetensors and
the rest is JSON, so that nothing of it can run.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from modules.errors import StorageError, TrainingError
from modules.loader.adapters import CONFIG, MANIFEST, WEIGHTS
from modules.loader.publish import publish
from modules.paths import write_atomically
from modules.training.trainer.lora import Lora

__all__ = ["CheckpointState", "Checkpoints", "write_adapter", "writing"]

_TENSORS, _STATE = "state.safetensors", "state.json"
_HIDDEN = ".writing-"
_LATEST, _BEST = "latest.json", "best.json"


@dataclass(frozen=True, slots=True)
class CheckpointState:
    """What a checkpoint holds beside the adapter: `tensors` by name, and `values` as JSON."""

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


class Checkpoints:
    """Those in `folder`, of which the `keep` newest stay, and the best."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self._keep = keep

    def path(self, step: int) -> Path:
        """Where the checkpoint after a step lies."""
        return self.folder / f"step-{step:06d}"

    def sweep(self) -> None:
        """Delete what a run that was killed had begun to write."""
        for remains in self.folder.glob(f"{_HIDDEN}*"):
            shutil.rmtree(remains, ignore_errors=True)

    def steps(self) -> list[int]:
        """The steps that there are checkpoints of, in their order."""
        names = (path.name.removeprefix("step-") for path in self.folder.glob("step-*"))
        return sorted(int(name) for name in names if name.isdecimal())

    def best(self) -> int:
        """The step of the best one, 0 if none is known."""
        try:
            step = json.loads((self.folder / _BEST).read_text())["step"]
        except (OSError, ValueError, KeyError):
            return 0
        return int(step) if self.path(int(step)).is_dir() else 0

    def save(
        self, step: int, lora: Lora, about: Mapping[str, Any], state: CheckpointState, *, best: bool
    ) -> Path:
        """Write the checkpoint after `step`; `about` goes into its lantern.json.

        Raises StorageError where the disk is full; those that were there stay whole.
        """
        with writing(self.folder, "The checkpoint") as hidden:
            write_adapter(hidden, lora, about)
            save_file(dict(state.tensors), hidden / _TENSORS)
            (hidden / _STATE).write_text(json.dumps(state.values))
            shutil.rmtree(self.path(step), ignore_errors=True)
            publish(hidden, self.path(step))
            for name in (_LATEST, _BEST) if best else (_LATEST,):
                write_atomically(self.folder / name, json.dumps({"step": step}))
        self._tidy()
        return self.path(step)

    def load_last(self) -> CheckpointState | None:
        """The state of the last one, or None. Raises TrainingError for one that is damaged."""
        steps = self.steps()
        return self.load(steps[-1]) if steps else None

    def load(self, step: int) -> CheckpointState:
        """The state after a step. Raises TrainingError for one that is damaged."""
        folder = self.path(step)
        try:
            values = json.loads((folder / _STATE).read_text())
            return CheckpointState(load_file(folder / _TENSORS), values)
        except (OSError, ValueError, SafetensorError) as error:
            raise TrainingError(
                f"The checkpoint {folder.name} is damaged.",
                "Delete its folder, and resume from the one before.",
            ) from error

    def _tidy(self) -> None:
        best = self.best()
        for step in self.steps()[: -self._keep]:
            if step != best:
                shutil.rmtree(self.path(step), ignore_errors=True)


def write_adapter(folder: Path, lora: Lora, about: Mapping[str, Any]) -> None:
    """PEFT's two files and Lantern's own, in a folder that nobody looks into yet."""
    config, tensors = lora.to_save()
    save_file({k: t.cpu() for k, t in tensors.items()}, folder / WEIGHTS, {"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2))
    (folder / MANIFEST).write_text(json.dumps(about, indent=2))


@contextlib.contextmanager
def writing(parent: Path, what: str) -> Iterator[Path]:
    """A hidden folder in `parent`, which is gone afterwards unless it was renamed.

    Raises StorageError for what goes wrong meanwhile.
    """
    hidden = None
    try:
        parent.mkdir(parents=True, exist_ok=True)
        hidden = Path(tempfile.mkdtemp(prefix=_HIDDEN, dir=parent))
        hidden.chmod(0o755)
        yield hidden
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"{what} could not be written: {_reason(error)}.",
            "Make room on the disk, and resume the run from the last checkpoint.",
        ) from error
    finally:
        if hidden is not None:
            shutil.rmtree(hidden, ignore_errors=True)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    full = "no space" in str(error).lower() or "storagefull" in str(error).lower()
    return "no space left on device" if full else str(error)[:200].rstrip(".")
