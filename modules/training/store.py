"""`RunStore`: the runs of one installation, each of them a folder in user_data/training/.

What a run is doing is not kept anywhere but read from its files: queue.json while it waits,
run.lock while its process lives, and the last of its events when it has ended. So a restarted
server, another tab and the terminal see the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from modules.errors import InvalidInputError, LanternError, NotFoundError, StorageError
from modules.paths import safe_child, write_atomically
from modules.training import lock
from modules.training.config import TrainingConfig
from modules.training.config_yaml import as_yaml, read_configs
from modules.training.curves import Curves
from modules.training.events import Sampled, Scored, Started
from modules.training.launch import EVENTS, LOG, PROCESS, note_process
from modules.training.progress import Progress, Told

__all__ = ["Checkpoint", "Run", "RunState", "RunStore", "is_running", "last_line"]

RunState = Literal["queued", "running", "done", "stopped", "failed", "lost"]

_QUEUE = "queue.json"
_CONFIG = "config.yaml"
_NAMELESS = "lora"
_STARTING_S = 60.0
"""How long a process that was started may take to its lock."""
_POINTS = 600


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a run can go on from, and a chat can be had with. `loss` is that of its evaluation."""

    step: int
    path: Path
    size_bytes: int
    best: bool = False
    latest: bool = False
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """A run as its files tell it. `created` is in seconds since 1970.

    `place` is its number in the queue, from 0, or -1; `resuming` says that it waits to go on
    from its last checkpoint. `error` and `remedy` are sentences, empty where nothing is wrong;
    `adapter` is the name in loras/ of what it made, and `reason` why it ended.
    """

    id: str
    folder: Path
    config: TrainingConfig
    state: RunState
    created: float
    place: int = -1
    resuming: bool = False
    progress: Progress = field(default_factory=Progress)
    started: Started | None = None
    checkpoints: tuple[Checkpoint, ...] = ()
    samples: tuple[Sampled, ...] = ()
    scores: tuple[Scored, ...] = ()
    warnings: tuple[str, ...] = ()
    adapter: str = ""
    reason: str = ""
    error: str = ""
    remedy: str = ""

    @property
    def ended(self) -> bool:
        """Whether it neither runs nor waits."""
        return self.state not in ("queued", "running")


class RunStore:
    """The runs below `folder`, made with the first of them. Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._told: dict[str, Told] = {}
        self._configs: dict[str, tuple[int, TrainingConfig, LanternError | None]] = {}
        self._guard = threading.RLock()

    # -- the folders --------------------------------------------------------------------

    def create(self, config: TrainingConfig) -> str:
        """Put a run at the end of the queue; returns its id, which is its name and the time.

        Raises InvalidNameError for a name that may not become a folder, and StorageError.
        """
        stem = f"{config.name or _NAMELESS}-{time.strftime('%Y%m%d-%H%M%S')}"
        safe_child(self.folder, stem)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.folder, prefix=".new-") as made:
                new = Path(made) / "run"
                new.mkdir()
                write_atomically(new / _CONFIG, as_yaml(config))
                _write_place(new, self._next_place(), resume=False)
                return self._named(new, stem)
        except OSError as error:
            raise _not_written(error) from error

    def _named(self, new: Path, stem: str) -> str:
        """Give the folder the first name that is free."""
        for number in range(1, 1000):
            name = stem if number == 1 else f"{stem}-{number}"
            target = safe_child(self.folder, name)
            if not target.exists():
                new.replace(target)
                return name
        raise StorageError(f"There are too many runs called {stem}.", "Give it another name.")

    def ids(self) -> list[str]:
        """The runs, the newest first."""
        if not self.folder.is_dir():
            return []
        found = [child.name for child in self.folder.iterdir() if _is_run(child)]
        return sorted(found, key=lambda name: (-_created(self.folder / name), name))

    def path(self, run_id: str) -> Path:
        """The folder of a run. Raises InvalidNameError and NotFoundError."""
        folder = safe_child(self.folder, run_id)
        if not _is_run(folder):
            raise NotFoundError(f"There is no run {run_id}.", "Choose one of the list.")
        return folder

    def delete(self, run_id: str) -> None:
        """Delete an ended run and its checkpoints; its LoRA in loras/ stays.

        Raises InvalidInputError for one that runs or waits.
        """
        run = self.get(run_id)
        if not run.ended:
            raise InvalidInputError(
                f"The run {run_id} has not ended.", "Stop it, or take it out of the queue, first."
            )
        try:
            shutil.rmtree(run.folder)
        except OSError as error:
            raise StorageError(
                f"The run {run_id} cannot be deleted: {error.strerror}.",
                "Make its folder writable.",
            ) from error
        with self._guard:
            self._told.pop(run_id, None)
            self._configs.pop(run_id, None)

    # -- what they are doing ------------------------------------------------------------

    def get(self, run_id: str) -> Run:
        """One run. Raises InvalidNameError and NotFoundError."""
        folder = self.path(run_id)
        with self._guard:
            config, problem = self._config(folder)
            place, running = _place(folder), is_running(folder)
            told = self._read(folder)  # after the look at the lock: its last word may be its end
            run = Run(
                id=run_id,
                folder=folder,
                config=config,
                state=_state(told, running=running, waiting=place is not None),
                created=_created(folder) / 1e9,
                place=-1 if place is None else place[0],
                resuming=place is not None and place[1],
                progress=told.progress(),
                started=told.started,
                checkpoints=_checkpoints(folder, told),
                samples=tuple(told.samples),
                scores=tuple(told.scores),
                warnings=tuple(told.warnings),
                adapter=told.adapter,
                reason=told.reason,
            )
        return _with_error(run, told, problem)

    def curves(self, run_id: str, points: int = _POINTS) -> Curves:
        """The curves of a run in at most `points` steps. Raises as `get` does."""
        folder = self.path(run_id)
        with self._guard:
            return self._read(folder).history.curves(points)

    def running(self) -> list[str]:
        """The runs whose process lives, whoever started it."""
        return [run_id for run_id in self.ids() if is_running(self.folder / run_id)]

    def _config(self, folder: Path) -> tuple[TrainingConfig, LanternError | None]:
        """The config of a run, or the standard one and what is wrong with its file."""
        changed = _created(folder)
        known = self._configs.get(folder.name)
        if known is None or known[0] != changed:
            known = self._configs[folder.name] = (changed, *_config(folder))
        return known[1:]

    def _read(self, folder: Path) -> Told:
        """What the run has told until now; only what is new is read."""
        told = self._told.get(folder.name)
        if told is None or told.began_anew():
            told = self._told[folder.name] = Told(folder / EVENTS)
        told.read()
        return told

    # -- the queue ----------------------------------------------------------------------

    def queued(self) -> list[str]:
        """The runs that wait, the next first."""
        places = {name: place for name in self.ids() if (place := _place(self.folder / name))}
        waiting = [name for name in places if not is_running(self.folder / name)]
        return sorted(waiting, key=lambda name: (places[name][0], name))

    def enqueue(self, run_id: str, *, resume: bool) -> None:
        """Put an ended run at the end of the queue. Raises StorageError."""
        folder = self.path(run_id)
        try:
            _write_place(folder, self._next_place(), resume=resume)
        except OSError as error:
            raise _not_written(error) from error

    def reorder(self, run_ids: list[str]) -> None:
        """Let those of the runs that wait take turns in this order, before all others."""
        waiting = self.queued()
        chosen = [name for name in dict.fromkeys(run_ids) if name in waiting]
        ordered = [*chosen, *(name for name in waiting if name not in chosen)]
        try:
            for number, name in enumerate(ordered):
                place = _place(self.folder / name)
                if place is not None:
                    _write_place(self.folder / name, number, resume=place[1])
        except OSError as error:
            raise _not_written(error) from error

    def claim(self, run_id: str) -> bool | None:
        """Take a run out of the queue to start it: whether it is to resume, or None if it did
        not wait. Of two servers that claim one run, one gets it.
        """
        folder = self.path(run_id)
        with self._guard:
            place = _place(folder)
            if not self.withdraw(run_id):
                return None
            # Until its own process is there, it is this one that it lives by.
            note_process(folder, os.getpid())
        return place is not None and place[1]

    def withdraw(self, run_id: str) -> bool:
        """Take a run out of the queue; False if it did not wait."""
        try:
            (self.path(run_id) / _QUEUE).unlink()
        except OSError:
            return False
        return True

    def _next_place(self) -> int:
        places = [place[0] for name in self.ids() if (place := _place(self.folder / name))]
        return max(places, default=-1) + 1

    # -- all of them ---------------------------------------------------------------------

    def list(self) -> list[Run]:
        """All runs, the newest first."""
        runs = []
        for run_id in self.ids():
            with contextlib.suppress(NotFoundError):  # deleted meanwhile
                runs.append(self.get(run_id))
        return runs


# -- files ------------------------------------------------------------------------------


def is_running(folder: Path) -> bool:
    """Whether the process of a run lives: it holds the lock, or is on its way to it."""
    return lock.is_held(folder) or _is_starting(folder)


def _is_starting(folder: Path) -> bool:
    about = _object(folder / PROCESS)
    pid, at = about.get("pid"), about.get("time")
    if not isinstance(pid, int) or not isinstance(at, int | float):
        return False
    if sys.platform == "win32" or not 0 <= time.time() - at < _STARTING_S:
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def _state(told: Told, *, running: bool, waiting: bool) -> RunState:
    if running:
        return "running"
    if waiting:
        return "queued"
    if told.end == "finished":
        return "stopped" if told.reason == "stopped" else "done"
    return "failed" if told.end == "failed" else "lost"


def _with_error(run: Run, told: Told, problem: LanternError | None) -> Run:
    if run.state == "failed":
        return replace(run, error=told.error, remedy=told.remedy)
    if problem is not None:
        return replace(run, error=problem.message, remedy=problem.remedy)
    if run.state == "lost":
        last = last_line(run.folder / LOG)
        return replace(
            run,
            error=f"The run ended without a word{f'; it said last: {last}' if last else '.'}",
            remedy="Resume it; if memory ran out, with a smaller micro batch or length.",
        )
    return run


def _checkpoints(folder: Path, told: Told) -> tuple[Checkpoint, ...]:
    parent = folder / "checkpoints"
    best = _object(parent / "best.json").get("step")
    latest = _object(parent / "latest.json").get("step")
    losses = dict(told.history.evaluated)
    found = []
    for child in sorted(parent.glob("step-*")):
        number = child.name.removeprefix("step-")
        if not number.isdecimal() or not child.is_dir():
            continue
        step = int(number)
        size = sum(file.stat().st_size for file in child.iterdir() if file.is_file())
        loss = losses.get(step)
        found.append(Checkpoint(step, child, size, step == best, step == latest, loss))
    return tuple(sorted(found, key=lambda checkpoint: checkpoint.step))


def _is_run(folder: Path) -> bool:
    return not folder.name.startswith(".") and (folder / _CONFIG).is_file()


def _created(folder: Path) -> int:
    """In nanoseconds since 1970; 0 if it is not there any more."""
    try:
        return (folder / _CONFIG).stat().st_mtime_ns
    except OSError:
        return 0


def _config(folder: Path) -> tuple[TrainingConfig, LanternError | None]:
    try:
        configs = read_configs(folder / _CONFIG)
    except LanternError as error:
        return TrainingConfig(), error
    return configs[0], None


def _place(folder: Path) -> tuple[int, bool] | None:
    """The number in the queue, and whether it is to resume; None for a run that does not wait."""
    if not (folder / _QUEUE).is_file():
        return None
    about = _object(folder / _QUEUE)
    number = about.get("order")
    return (number if isinstance(number, int) else 0, about.get("resume") is True)


def _write_place(folder: Path, number: int, *, resume: bool) -> None:
    write_atomically(folder / _QUEUE, json.dumps({"order": number, "resume": resume}))


def _object(file: Path) -> Mapping[str, Any]:
    """A small JSON object; empty where there is none, or it is damaged."""
    try:
        content = json.loads(file.read_bytes()[:65536])
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def last_line(log: Path) -> str:
    """What a process printed last; empty where it printed nothing."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "")


def _not_written(error: OSError) -> StorageError:
    return StorageError(
        f"The run cannot be kept: {error.strerror}.",
        "Make room on the disk, or make user_data/training writable.",
    )
