"""Long work: its states, its progress, its end."""

from __future__ import annotations

import asyncio
import threading

import pytest

from modules.errors import DownloadError
from modules.jobs import Job, JobManager

pytestmark = pytest.mark.anyio


async def nothing(job: Job) -> None:
    """Work that is done at once."""


async def forever(job: Job) -> None:
    await asyncio.Event().wait()


async def test_work_that_ends_is_done() -> None:
    manager = JobManager()
    job = manager.submit("Work", nothing)
    assert job.active
    await job.wait()
    assert (job.state, job.fraction, job.active) == ("done", 1.0, False)


async def test_the_error_of_work_is_kept() -> None:
    async def work(job: Job) -> None:
        raise DownloadError("The disk is full.", "Free some space.")

    job = JobManager().submit("Fetching", work)
    await job.wait()
    assert job.state == "failed"
    assert str(job.error) == "The disk is full. Free some space."


async def test_a_fault_in_work_becomes_a_sentence_with_a_remedy() -> None:
    async def work(job: Job) -> None:
        raise KeyError("weights")

    job = JobManager().submit("Loading", work)
    await job.wait()
    assert job.state == "failed"
    assert str(job.error) == "Loading failed: KeyError: 'weights'. See the terminal."


async def test_running_work_can_be_cancelled() -> None:
    manager = JobManager()
    job = manager.submit("Work", forever)
    await asyncio.sleep(0)
    manager.cancel(job.id)
    await job.wait()
    assert (job.state, job.cancelled()) == ("cancelled", True)


async def test_work_that_is_cancelled_before_it_began_is_cancelled_too() -> None:
    manager = JobManager()
    job = manager.submit("Work", forever)
    manager.cancel(job.id)
    await job.wait()
    assert (job.state, job.active) == ("cancelled", False)


async def test_cancelling_what_has_ended_or_never_was_changes_nothing() -> None:
    manager = JobManager()
    job = manager.submit("Work", nothing)
    await job.wait()
    manager.cancel(job.id)
    manager.cancel(12345)
    assert (job.state, job.cancelled()) == ("done", False)


async def test_progress_from_a_thread_wakes_the_followers() -> None:
    manager = JobManager()

    async def work(job: Job) -> None:
        await asyncio.to_thread(job.report, "Fetching", 0.5)
        await forever(job)

    job = manager.submit("Work", work)
    seen = manager.changed.version
    while job.stage != "Fetching":
        seen = await manager.changed.wait(seen)
    assert job.fraction == 0.5
    await manager.close()


async def test_progress_stays_between_zero_and_one() -> None:
    job = JobManager().submit("Work", nothing)
    shares = []
    for fraction in (-3.0, 7.0, float("nan")):
        job.report("x", fraction)
        shares.append(job.fraction)
    assert shares == [0.0, 1.0, 0.0]
    await job.wait()


async def test_a_report_after_the_loop_has_ended_is_harmless() -> None:
    manager = JobManager()
    job = manager.submit("Work", nothing)
    await job.wait()
    thread = threading.Thread(target=job.report, args=("late", 1.0))
    thread.start()
    await asyncio.to_thread(thread.join)
    manager._loop = asyncio.new_event_loop()
    manager._loop.close()
    job.report("later", 1.0)


async def test_every_end_wakes_the_followers() -> None:
    manager = JobManager()
    job = manager.submit("Work", nothing)
    seen = manager.changed.version
    await job.wait()
    assert manager.changed.version > seen


async def test_old_jobs_are_forgotten_and_running_ones_never() -> None:
    manager = JobManager()
    first = manager.submit("Running", forever)
    for _ in range(50):
        await manager.submit("Short", nothing).wait()
    assert first in manager.jobs()
    assert len(manager.jobs()) <= 23
    await manager.close()


async def test_closing_ends_everything() -> None:
    manager = JobManager()
    jobs = [manager.submit("Work", forever) for _ in range(3)]
    await asyncio.sleep(0)
    await manager.close()
    assert [job.state for job in jobs] == ["cancelled"] * 3


async def test_one_job_failing_leaves_the_others_alone() -> None:
    manager = JobManager()

    async def work(job: Job) -> None:
        raise ValueError

    survivor = manager.submit("Work", forever)
    await manager.submit("Bad", work).wait()
    assert survivor.state == "running"
    await manager.close()


async def test_a_job_is_asked_to_rest_and_to_go_on() -> None:
    manager = JobManager()
    job = manager.submit("Work", forever, kind="download", subject="owner/name")
    assert (job.kind, job.subject, job.paused) == ("download", "owner/name", False)
    manager.pause(job.id, True)
    assert job.paused
    manager.pause(job.id, False)
    assert not job.paused
    await manager.close()


async def test_only_an_ended_job_is_forgotten() -> None:
    manager = JobManager()
    running, ended = manager.submit("Work", forever), manager.submit("Work", nothing)
    await ended.wait()
    for job in (running, ended):
        manager.forget(job.id)
    manager.forget(99)
    manager.pause(ended.id, True)
    assert (manager.jobs(), ended.paused) == ([running], False)
    await manager.close()
