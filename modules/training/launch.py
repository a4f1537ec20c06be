"""Starting a run: its own process, in its own session, which outlives the server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from modules.errors import StorageError
from modules.paths import write_atomically
from modules.training.control import forget_commands
from modules.training.events import EventLog, Stage

__all__ = ["EVENTS", "LOG", "PROCESS", "Launch", "RunFolders", "launch", "note_process", "start"]

EVENTS = "events.jsonl"
LOG = "log.txt"
PROCESS = "process.json"
"""The process that was started last, and when: until it holds the lock, that is all one knows."""

_ROOT = Path(__file__).resolve().parents[2]

Launch = Callable[[Path, bool], "subprocess.Popen[bytes]"]
"""Starts the run in a folder; the second argument says whether it goes on where it was."""


@dataclass(frozen=True, slots=True)
class RunFolders:
    """Where a run finds its base, puts its LoRA, and looks for data."""

    models: Path
    loras: Path
    user_data: Path

    def arguments(self) -> list[str]:
        """As flags of `python -m modules.training.run`."""
        return [
            *("--model-dir", str(self.models.absolute())),
            *("--lora-dir", str(self.loras.absolute())),
            *("--user-data-dir", str(self.user_data.absolute())),
        ]


def launch(folder: Path, folders: RunFolders, *, resume: bool) -> subprocess.Popen[bytes]:
    """Start the run in `folder` by its config.yaml; what it prints is added to log.txt.

    Several cards are its own affair: the run starts accelerate by itself. Raises StorageError.
    """
    folder = folder.absolute()
    command = [sys.executable, "-m", "modules.training.run", str(folder / "config.yaml")]
    command += ["--run-dir", str(folder), *folders.arguments()]
    return start(folder, [*command, "--resume"] if resume else command)


def start(folder: Path, command: list[str]) -> subprocess.Popen[bytes]:
    """Start `command` as the process of the run in `folder`. Raises StorageError."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    try:
        forget_commands(folder)
        _say_that_it_starts(folder)
        with (folder / LOG).open("ab") as log:
            process = subprocess.Popen(  # an argv list, no shell
                command,
                cwd=_ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        note_process(folder, process.pid)
    except OSError as error:
        raise StorageError(
            f"The run {folder.name} could not be started: {error.strerror}.",
            "Make room on the disk, or make the folder writable.",
        ) from error
    # Whoever follows it or not: an ended child that nobody waits for still has its process id.
    threading.Thread(target=process.wait, name="training-run", daemon=True).start()
    return process


def _say_that_it_starts(folder: Path) -> None:
    """So that a run that dies before its first word does not seem to be as it was before."""
    events = EventLog(folder / EVENTS)
    try:
        events.write(Stage(text="Starting"))
    finally:
        events.close()


def note_process(folder: Path, pid: int) -> None:
    """Write down which process the run lives by until it holds its lock. Raises OSError."""
    write_atomically(folder / PROCESS, json.dumps({"pid": pid, "time": time.time()}))
