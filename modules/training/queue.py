"""`TrainingQueue`: one run after another, whoever watches.

The queue itself is in the folders of the runs (`store.py`), so that it survives the server; a
run that a former server started is followed by its lock. A run that fails ends alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modules.errors import InvalidInputError, LanternError, StorageError
from modules.signals import Signal
from modules.training import control
from modules.training.aside import StepAside
from modules.training.config import TrainingConfig
from modules.training.config_yaml import expand, from_mapping
from modules.training.control import Command
from modules.training.events import EventLog, Failed
from modules.training.launch import EVENTS, LOG, PROCESS, Launch
from modules.training.store import Run, RunStore, is_running, last_line

__all__ = ["TrainingQueue"]

log = logging.getLogger(__name__)

_TICK_S = 0.25
"""Between two looks at a run; while nothing runs, nobody looks."""
_AGAIN_S = 5.0


class TrainingQueue:
    """The runs of one installation, computed in turn. Belongs to one event loop.

    `changed` is raised when a run, or the queue, has something new to show. `note` is a
    sentence about the chat model where it did not come back; empty otherwise.
    """

    def __init__(self, store: RunStore, launch: Launch, aside: StepAside | None = None) -> None:
        self.store = store
        self.changed = Signal()
        self.current = ""
        self.note = ""
        self.stepped_aside = False
        self._launch = launch
        self._aside = aside
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # -- its life -----------------------------------------------------------------------

    def start(self) -> None:
        """Begin, or go on with what a former server left. Needs a running event loop."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work(), name="training")

    async def close(self) -> None:
        """Follow no longer. What runs goes on by itself, and the queue waits for the next start."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    # -- what the page asks for ---------------------------------------------------------

    async def add(self, entries: Mapping[str, Any]) -> list[str]:
        """Queue the run that the mapping (of YAML or JSON) describes, or each run of its sweep.

        Returns the ids. Raises InvalidInputError, and then nothing is queued.
        """
        configs = [from_mapping(one) for one in expand(entries)]
        return [await self.add_config(config) for config in configs]

    async def add_config(self, config: TrainingConfig) -> str:
        """Queue one run; returns its id. Raises InvalidNameError and StorageError."""
        run_id = await asyncio.to_thread(self.store.create, config)
        self._stir()
        return run_id

    async def resume(self, run_id: str) -> None:
        """Queue an ended run, to go on from its last checkpoint.

        Raises InvalidInputError for one that is done, runs or waits.
        """
        run = await asyncio.to_thread(self.store.get, run_id)
        if run.state not in ("stopped", "failed", "lost"):
            raise InvalidInputError(
                f"The run {run_id} is {run.state}, so that there is nothing to resume.",
                "Repeat it, or continue its LoRA with new data.",
            )
        await asyncio.to_thread(self.store.enqueue, run_id, resume=bool(run.checkpoints))
        self._stir()

    async def repeat(self, run_id: str) -> str:
        """Queue a new run with the config of another one; returns its id."""
        run = await asyncio.to_thread(self.store.get, run_id)
        return await self.add_config(run.config)

    async def cancel(self, run_id: str) -> None:
        """Take a run out of the queue, or stop the one that runs with everything saved.

        One that never ran is deleted. One that has ended is left alone.
        """
        run = await asyncio.to_thread(self.store.get, run_id)
        if run.state == "running":
            await self.tell(run_id, control.Stop())
        elif run.state == "queued":
            if not await asyncio.to_thread(self.store.withdraw, run_id):
                return
            if not (run.folder / LOG).exists():
                await asyncio.to_thread(self.store.delete, run_id)
            self.changed.notify()

    async def reorder(self, run_ids: list[str]) -> None:
        """Let the waiting runs take turns in this order; those that are not named come last."""
        await asyncio.to_thread(self.store.reorder, run_ids)
        self.changed.notify()

    async def delete(self, run_id: str) -> None:
        """Delete an ended run. Raises as `RunStore.delete` does."""
        await asyncio.to_thread(self.store.delete, run_id)
        self.changed.notify()

    async def tell(self, run_id: str, command: Command) -> None:
        """Tell a run to stop, to save, or at which loss to stop.

        Raises InvalidInputError for a run that does not run.
        """
        run = await asyncio.to_thread(self.store.get, run_id)
        if run.state != "running":
            raise InvalidInputError(
                f"The run {run_id} is {run.state}, so that nobody listens.", "Resume it first."
            )
        await asyncio.to_thread(control.send, run.folder, command)

    # -- its work -----------------------------------------------------------------------

    def _stir(self) -> None:
        self._wake.set()
        self.changed.notify()

    async def _work(self) -> None:
        while True:
            self._wake.clear()
            try:
                idle = not await self._next()
            except (LanternError, OSError) as error:  # user_data cannot be read, say
                log.warning("The training queue waits: %s", error)
                await asyncio.sleep(_AGAIN_S)
                continue
            if idle:
                await self._wake.wait()

    async def _next(self) -> bool:
        """Follow what runs, then compute the next run; False where there is none."""
        for run_id in await asyncio.to_thread(self.store.running):
            await self._follow(run_id, None)
        waiting = await asyncio.to_thread(self.store.queued)
        if not waiting:
            await self._come_back()
            return False
        await self._compute(waiting[0])
        return True

    async def _compute(self, run_id: str) -> None:
        """Start a run and follow it to its end."""
        try:
            run = await asyncio.to_thread(self.store.get, run_id)
            await self._make_room(run)
            resume = await asyncio.to_thread(self.store.claim, run_id)
            if resume is None:  # cancelled meanwhile
                return
            process = await asyncio.to_thread(self._launch, run.folder, resume)
        except (LanternError, OSError) as error:
            await asyncio.to_thread(self._fail, run_id, _explained(error))
            return
        await self._follow(run_id, process)

    def _fail(self, run_id: str, error: LanternError) -> None:
        """Note that a run could not even be started."""
        with contextlib.suppress(LanternError, OSError):
            folder = self.store.path(run_id)
            self.store.withdraw(run_id)
            (folder / PROCESS).unlink(missing_ok=True)
            events = EventLog(folder / EVENTS)
            events.write(Failed(message=error.message, remedy=error.remedy))
            events.close()
        log.warning("%s: %s", run_id, error)
        self.changed.notify()

    def _fail_silent(self, run_id: str) -> None:
        """Note what a process said last that ended by an error without an event of it."""
        with contextlib.suppress(LanternError):
            if self.store.get(run_id).state == "lost":
                last = last_line(self.store.folder / run_id / LOG)
                told = LanternError(last or "The run did not start.", f"Its {LOG} may say why.")
                self._fail(run_id, told)

    async def _follow(self, run_id: str, process: subprocess.Popen[bytes] | None) -> None:
        """Raise `changed` as the files of a run grow, until its process has ended.

        `process` is None for a run that somebody else started.
        """
        self.current = run_id
        self.changed.notify()
        folder, seen = self.store.folder / run_id, (-1, -1)
        while await asyncio.to_thread(_lives, folder, process):
            sizes = await asyncio.to_thread(_sizes, folder)
            if sizes != seen:
                seen = sizes
                self.changed.notify()
            await asyncio.sleep(_TICK_S)
        if process is not None and process.returncode > 0:
            await asyncio.to_thread(self._fail_silent, run_id)
        self.current = ""
        self.changed.notify()

    # -- the chat model -----------------------------------------------------------------

    async def _make_room(self, run: Run) -> None:
        """Have the chat model step aside, or come back, as the next run has it."""
        if self._aside is None:
            return
        if not await asyncio.to_thread(self._aside.needed, run.config):
            if self.stepped_aside:
                await self._come_back()
        elif not self.stepped_aside:
            self.stepped_aside = await self._aside.release()
            self.changed.notify()

    async def _come_back(self) -> None:
        if self._aside is None or not self.stepped_aside:
            return
        self.note = await self._aside.restore()
        self.stepped_aside = False
        self.changed.notify()


def _explained(error: LanternError | OSError) -> LanternError:
    if isinstance(error, LanternError):
        return error
    return StorageError(f"The run could not be started: {error}.", "Make room on the disk.")


def _lives(folder: Path, process: subprocess.Popen[bytes] | None) -> bool:
    return (process is not None and process.poll() is None) or is_running(folder)


def _sizes(folder: Path) -> tuple[int, int]:
    """What changes when a run has something new to show."""
    return _size(folder / EVENTS), _size(folder / "checkpoints" / "latest.json")


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
