"""`JobManager`: long work that outlives the tab that asked for it.

A job has a title, a stage and a fraction; whoever wants to follow it waits on the
manager's signal and reads the present state, so that progress is bounded by nature.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from modules.errors import LanternError
from modules.signals import Signal

__all__ = ["Job", "JobManager"]

_KEPT = 20
"""Ended jobs that are remembered."""


@dataclass(slots=True)
class Job:
    """One piece of long work. `report` and `cancelled` may be called from any thread.

    `kind` is a word ("load", "download"), `subject` what it works on; `details` is a line of
    figures. `paused` asks the work to rest, where it can; it looks at it by itself. `outcome`
    is a sentence about what came of it, and `notes` are what a user should know of that.
    """

    id: int
    title: str
    manager: JobManager
    kind: str = ""
    subject: str = ""
    state: Literal["queued", "running", "done", "failed", "cancelled"] = "queued"
    stage: str = ""
    fraction: float = 0.0
    details: str = ""
    error: LanternError | None = None
    outcome: str = ""
    notes: tuple[str, ...] = ()
    cancel_asked: bool = False
    paused: bool = False
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def active(self) -> bool:
        """Whether it still runs, or waits to."""
        return self.state in ("queued", "running")

    def report(self, stage: str, fraction: float, details: str = "") -> None:
        """Say how far the work is: `fraction` from 0 to 1."""
        self.stage, self.fraction = stage, min(1.0, max(0.0, fraction))
        self.details = details
        self.manager.notify_from_any_thread()

    def cancelled(self) -> bool:
        """For the work itself: whether somebody asked it to end."""
        return self.cancel_asked

    async def wait(self) -> None:
        """Return when the work has ended, however it did."""
        if self.task is not None:
            await asyncio.wait([self.task])


class JobManager:
    """The jobs of one process. Belongs to one event loop."""

    def __init__(self) -> None:
        self.changed = Signal()
        self.closing = False
        self._jobs: dict[int, Job] = {}
        self._ids = itertools.count(1)
        self._loop: asyncio.AbstractEventLoop | None = None

    def submit(
        self,
        title: str,
        work: Callable[[Job], Awaitable[object]],
        *,
        kind: str = "",
        subject: str = "",
    ) -> Job:
        """Start `work`; it gets its `Job`, to report to and to look at for a cancel."""
        self._loop = asyncio.get_running_loop()
        job = Job(next(self._ids), title, self, kind, subject)
        self._jobs[job.id] = job
        for old in [j.id for j in self._jobs.values() if not j.active][:-_KEPT]:
            del self._jobs[old]
        job.task = self._loop.create_task(self._run(job, work), name=f"job-{job.id}")
        self.changed.notify()
        return job

    def jobs(self) -> list[Job]:
        """All jobs that are remembered, the oldest first."""
        return list(self._jobs.values())

    def cancel(self, job_id: int) -> None:
        """Ask a job to end. An unknown or ended one is left alone."""
        job = self._jobs.get(job_id)
        if job is not None and job.active and job.task is not None:
            job.cancel_asked = True
            if job.state == "queued":  # a task that is cancelled before its first step has no say
                job.state = "cancelled"
                self.changed.notify()
            job.task.cancel()

    def pause(self, job_id: int, paused: bool) -> None:
        """Ask a job to rest, or to go on. An unknown or ended one is left alone."""
        job = self._jobs.get(job_id)
        if job is not None and job.active:
            job.paused = paused
            self.changed.notify()

    def forget(self, job_id: int) -> None:
        """Remember an ended job no longer."""
        job = self._jobs.get(job_id)
        if job is not None and not job.active:
            del self._jobs[job_id]
            self.changed.notify()

    def notify_from_any_thread(self) -> None:
        """Wake the followers."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.changed.notify)

    async def close(self) -> None:
        """Cancel what runs, and wait for it. `closing` tells the work why."""
        self.closing = True
        tasks = [j.task for j in self._jobs.values() if j.active and j.task is not None]
        for job in list(self._jobs.values()):
            self.cancel(job.id)
        if tasks:
            await asyncio.wait(tasks, timeout=10)

    async def _run(self, job: Job, work: Callable[[Job], Awaitable[object]]) -> None:
        job.state = "running"
        try:
            await work(job)
            job.state, job.fraction = "done", 1.0
        except asyncio.CancelledError:
            job.state = "cancelled"
        except LanternError as error:
            job.state, job.error = "failed", error
        except Exception as error:  # noqa: BLE001 - the job runner is one of the four boundaries
            job.state = "failed"
            job.error = LanternError(
                f"{job.title} failed: {type(error).__name__}: {error}.", "See the terminal."
            )
        finally:
            self.changed.notify()
