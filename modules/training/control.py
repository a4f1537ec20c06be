"""What a run is told while it computes: one JSON object a line in `control.jsonl`."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.errors import InvalidInputError, StorageError

__all__ = [
    "CONTROL",
    "Command",
    "ControlReader",
    "Save",
    "Stop",
    "StopAtLoss",
    "forget_commands",
    "send",
]

CONTROL = "control.jsonl"


@dataclass(frozen=True, slots=True)
class Stop:
    """End after the present step, with everything saved."""


@dataclass(frozen=True, slots=True)
class Save:
    """Write a checkpoint after the present step."""


@dataclass(frozen=True, slots=True)
class StopAtLoss:
    """End when the smoothed loss is at or below `loss`; 0 takes the wish back."""

    loss: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.loss) and 0 <= self.loss <= 100):
            raise InvalidInputError(
                f"The loss to stop at cannot be {self.loss:g}.",
                "Use a number from 0 to 100.",
                "loss",
            )


Command = Stop | Save | StopAtLoss


def send(folder: Path, command: Command) -> None:
    """Tell the run in `folder`; it looks between two steps. Raises StorageError."""
    line = json.dumps(_entries(command)) + "\n"
    try:
        with (folder / CONTROL).open("ab") as file:
            file.write(line.encode())
    except OSError as error:
        raise StorageError(
            f"The run {folder.name} cannot be told: {error.strerror}.",
            "Make room on the disk, or make the folder writable.",
        ) from error


def forget_commands(folder: Path) -> None:
    """Leave no command from before a start: an old "stop" would end the run at once."""
    (folder / CONTROL).unlink(missing_ok=True)


class ControlReader:
    """The run's end: the commands that have come since the last time."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / CONTROL
        self._at = 0

    def read(self) -> list[Command]:
        """New commands in their order; what is not understood is left out."""
        try:
            if self._path.stat().st_size <= self._at:
                return []
            with self._path.open("rb") as file:
                file.seek(self._at)
                lines = file.read()
        except OSError:
            return []
        complete = lines.rfind(b"\n") + 1
        self._at += complete
        found = (_command(line) for line in lines[:complete].splitlines())
        return [command for command in found if command is not None]


def _entries(command: Command) -> dict[str, Any]:
    match command:
        case Stop():
            return {"do": "stop"}
        case Save():
            return {"do": "save"}
        case StopAtLoss(loss):
            return {"do": "stop at loss", "loss": loss}


def _command(line: bytes) -> Command | None:
    try:
        entries = json.loads(line)
        match entries["do"]:
            case "stop":
                return Stop()
            case "save":
                return Save()
            case "stop at loss":
                return StopAtLoss(float(entries["loss"]))
    except (ValueError, KeyError, TypeError, InvalidInputError):
        pass
    return None
