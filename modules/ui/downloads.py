"""Downloads as jobs: look at what a hub has, fetch it, pause, go on."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from pathlib import Path
from typing import Any

from modules.context import AppContext
from modules.errors import (
    DownloadError,
    DownloadIncompleteError,
    DownloadStoppedError,
    InvalidInputError,
)
from modules.jobs import Job
from modules.loader.download import (
    DownloadProgress,
    DownloadRequest,
    Listing,
    Stop,
    bytes_present,
    discard_partial,
    fetch,
    look,
)
from modules.loader.download.report import progress_text, size_text

__all__ = ["download", "downloads_json", "look_json"]

_SHOWN = 5
"""Ended downloads that the tab still tells about."""


def look_json(ctx: AppContext, model: str) -> dict[str, Any]:
    """What would be fetched, and whether there is room. Sizes in bytes. Raises DownloadError."""
    listing = look(DownloadRequest(model=model))
    parent = _parent(ctx, listing)
    missing = listing.total_bytes - (present := bytes_present(listing, parent))
    free = _free(parent)
    return {
        "model": model,
        "revision": listing.revision,
        "kind": "LoRA" if listing.is_adapter else "model",
        "folder": f"{parent.name}/{listing.folder}",
        "files": [(file.path, file.size) for file in listing.files],
        "left_out": listing.left_out,
        "total": listing.total_bytes,
        "present": present,
        "free": free,
        "enough": missing <= free,
    }


async def download(ctx: AppContext, model: str, revision: str) -> Job:
    """Fetch `model` as a job, if it still is what was looked at: the commit `revision`.

    Raises DownloadError, and InvalidInputError where it is being fetched already.
    """
    listing = await asyncio.to_thread(look, DownloadRequest(model=model))
    if revision != listing.revision:
        raise DownloadError(
            f"{model} has changed on the hub since you looked.", "Look again, then download it."
        )
    if any(job.active and job.subject == model for job in _downloads(ctx)):
        raise InvalidInputError(f"{model} is being downloaded already.", "Wait for it.")
    return ctx.jobs.submit(
        f"Downloading {model}",
        lambda job: _run(_parent(ctx, listing), listing, job),
        kind="download",
        subject=model,
    )


async def _run(parent: Path, listing: Listing, job: Job) -> None:
    """Fetch, rest while the job is paused, and go on, until it is all there.

    A cancel deletes what has come; the end of the program only pauses.
    """

    def stop() -> Stop:
        if job.paused or job.manager.closing:
            return "pause"
        return "cancel" if job.cancelled() else ""

    def told(progress: DownloadProgress) -> None:
        job.report(progress.stage, progress.done / max(1, progress.total), progress_text(progress))

    def transfer() -> None:
        fetch(listing, parent, on_progress=told, should_stop=stop)

    while True:
        try:
            return await _to_its_end(transfer)
        except DownloadStoppedError as error:
            if not error.paused:
                raise
        done, total = bytes_present(listing, parent), listing.total_bytes
        job.report("Paused", done / max(1, total), f"{size_text(done)} of {size_text(total)}")
        try:
            await _resumed(job)
        except asyncio.CancelledError:
            if not job.manager.closing:
                await asyncio.to_thread(discard_partial, listing, parent)
            raise


async def _to_its_end(transfer: Any) -> None:
    """Run `transfer` in a thread; a cancelled job ends when the thread has cleared up."""
    thread = asyncio.create_task(asyncio.to_thread(transfer))
    try:
        await asyncio.shield(thread)
    except asyncio.CancelledError:
        with contextlib.suppress(DownloadError):
            await thread
        raise


async def _resumed(job: Job) -> None:
    seen = -1
    while job.paused:
        seen = await job.manager.changed.wait(seen)


def downloads_json(ctx: AppContext) -> list[dict[str, Any]]:
    """The downloads that run or rest, and the last ones that ended otherwise than by a cancel."""
    jobs = [job for job in _downloads(ctx) if job.state != "cancelled"]
    ended = [job for job in jobs if not job.active]
    return [_json(job) for job in jobs if job.active or job in ended[-_SHOWN:]]


def _json(job: Job) -> dict[str, Any]:
    error = job.error
    missing = error.missing if isinstance(error, DownloadIncompleteError) else ()
    return {
        "id": job.id,
        "model": job.subject,
        "state": "paused" if job.active and job.paused else job.state,
        "stage": job.stage,
        "fraction": round(job.fraction, 4),
        "details": job.details,
        "error": f"{error}" if error else "",
        "missing": missing,
    }


def _downloads(ctx: AppContext) -> list[Job]:
    return [job for job in ctx.jobs.jobs() if job.kind == "download"]


def _parent(ctx: AppContext, listing: Listing) -> Path:
    return ctx.settings.lora_dir if listing.is_adapter else ctx.settings.model_dir


def _free(folder: Path) -> int:
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    return shutil.disk_usage(existing).free
