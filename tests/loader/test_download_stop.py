"""Downloads that are paused, cancelled, interrupted, and begun twice."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from modules.errors import DownloadError, DownloadStoppedError, InvalidInputError
from modules.loader.download import (
    DownloadProgress,
    DownloadRequest,
    Listing,
    Stop,
    discard_partial,
    fetch,
    look,
)
from modules.loader.publish import only_one
from tests.downloads import (
    FETCH,
    FILES,
    PART,
    SIZE,
    content,
    incomplete,
    names,
    ranges,
    wait_until,
)
from tests.hub import Hub

ROOT = Path(__file__).parents[2]


@pytest.fixture
def listing(hub: Hub) -> Listing:
    hub.add("owner/name", FILES)
    return look(DownloadRequest(model="owner/name"))


# -- pause, cancel, two at once ---------------------------------------------------------


def stop_in_the_middle(hub: Hub, listing: Listing, parent: Path, how: Stop) -> DownloadStoppedError:
    hub.faults.pause_at = 100_000
    seen = 0

    def watch(progress: DownloadProgress) -> None:
        nonlocal seen
        seen = progress.done
        if seen >= 100_000:
            hub.faults.go.set()
            hub.faults.delay_s, hub.faults.block = 0.01, 1000

    with pytest.raises(DownloadStoppedError) as caught:
        fetch(
            listing,
            parent,
            on_progress=watch,
            should_stop=lambda: how if seen >= 100_000 else "",
        )
    hub.faults.delay_s, hub.faults.block = 0.0, 65536
    return caught.value


def test_a_paused_download_goes_on_where_it_was(hub: Hub, listing: Listing, tmp_path: Path) -> None:
    assert stop_in_the_middle(hub, listing, tmp_path, "pause").paused
    there = (tmp_path / PART).stat().st_size
    assert 100_000 <= there < SIZE
    hub.requests.clear()
    assert content(fetch(listing, tmp_path)) == FILES
    assert ranges(hub) == [f"bytes={there}-{SIZE - 1}"]


def test_a_cancelled_download_leaves_nothing(hub: Hub, listing: Listing, tmp_path: Path) -> None:
    assert not stop_in_the_middle(hub, listing, tmp_path, "cancel").paused
    assert names(tmp_path) == []


def test_an_interruption_keeps_what_came(hub: Hub, listing: Listing, tmp_path: Path) -> None:
    hub.faults.block, hub.faults.delay_s = 10_000, 0.02

    def interrupt(progress: DownloadProgress) -> None:
        if progress.done >= 50_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(listing, tmp_path, on_progress=interrupt)
    assert (tmp_path / PART).stat().st_size >= 10_000
    assert not any(thread.name.startswith("download") for thread in threading.enumerate())
    assert content(fetch(listing, tmp_path)) == FILES


def test_a_wait_between_attempts_can_be_cancelled(
    hub: Hub, listing: Listing, tmp_path: Path
) -> None:
    hub.faults.status, hub.faults.retry_after = 429, "59"
    started = time.monotonic()
    with pytest.raises(DownloadStoppedError):
        fetch(
            listing,
            tmp_path,
            should_stop=lambda: "cancel" if len(hub.content_requests()) == 3 else "",
        )
    assert time.monotonic() - started < 50


def test_two_downloads_at_once_share_one(hub: Hub, listing: Listing, tmp_path: Path) -> None:
    threads = [threading.Thread(target=fetch, args=(listing, tmp_path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(hub.content_requests()) == 3
    assert names(tmp_path) == ["owner_name"]


def test_waiting_for_another_download_is_told_and_can_be_cancelled(
    listing: Listing, tmp_path: Path
) -> None:
    stages = []
    with only_one(tmp_path / "owner_name", lambda: None), pytest.raises(DownloadStoppedError):
        fetch(
            listing,
            tmp_path,
            on_progress=lambda progress: stages.append(progress.stage),
            should_stop=lambda: "cancel" if stages else "",
        )
    assert stages == ["Waiting for another download of the same model"]


def test_a_download_under_way_cannot_be_discarded(
    hub: Hub, listing: Listing, tmp_path: Path
) -> None:
    hub.faults.cuts = [200_000]
    incomplete(listing, tmp_path)
    with (
        only_one(tmp_path / "owner_name", lambda: None),
        pytest.raises(DownloadError, match="is being downloaded"),
    ):
        discard_partial(listing, tmp_path)


@pytest.mark.parametrize(("threads", "retries"), [(0, 5), (33, 5), (-1, 5), (4, -1), (4, 1001)])
def test_numbers_out_of_bounds_are_refused(
    listing: Listing, tmp_path: Path, threads: int, retries: int
) -> None:
    with pytest.raises(InvalidInputError, match="out of bounds"):
        fetch(listing, tmp_path, threads=threads, max_retries=retries)


def test_another_process_waits_for_the_first(hub: Hub, listing: Listing, tmp_path: Path) -> None:
    hub.faults.pause_at = 100_000
    stages = set()

    def watch(progress: DownloadProgress) -> None:
        stages.add(progress.stage)
        hub.faults.go.set()

    with subprocess.Popen([sys.executable, "-c", FETCH, str(tmp_path)], cwd=ROOT) as first:
        wait_until((tmp_path / PART).exists)
        assert content(fetch(listing, tmp_path, on_progress=watch)) == FILES
    assert first.returncode == 0
    assert stages == {"Waiting for another download of the same model"}
    assert len(hub.content_requests()) == 3
