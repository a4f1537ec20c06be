"""Downloads that are cut, killed, damaged and lied to end with the right bytes or a sentence."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from pathlib import Path

import pytest

from modules.loader.download import (
    DownloadRequest,
    Listing,
    bytes_present,
    discard_partial,
    fetch,
    look,
)
from tests.downloads import (
    FETCH,
    FILES,
    PART,
    SIZE,
    WEIGHTS,
    content,
    incomplete,
    names,
    ranges,
    wait_until,
)
from tests.hub import Hub, commit_of, running_hub

ROOT = Path(__file__).parents[2]


@pytest.fixture
def listing(hub: Hub) -> Listing:
    hub.add("owner/name", FILES)
    return look(DownloadRequest(model="owner/name"))


# -- cuts -------------------------------------------------------------------------------


def test_downloads_cut_at_fifty_offsets_are_resumed_to_the_right_content(
    hub: Hub, listing: Listing, tmp_path: Path
) -> None:
    expected = hashlib.sha256(WEIGHTS).hexdigest()
    for number in range(50):
        offset = 100 + number * (SIZE - 101) // 49  # from the first bytes to the last but one
        hub.faults.cuts, hub.faults.block = [offset], 4096
        parent = tmp_path / str(number)
        error = incomplete(listing, parent)
        assert [path for path, _ in error.missing] == ["model.safetensors"]
        assert (parent / PART).stat().st_size == offset
        hub.requests.clear()
        path = fetch(listing, parent, max_retries=0) / "model.safetensors"
        assert hashlib.sha256(path.read_bytes()).hexdigest() == expected
        assert ranges(hub) == [f"bytes={offset}-{SIZE - 1}"]


@pytest.mark.parametrize("reset", [False, True])
def test_fifty_cuts_in_one_download_are_survived(
    hub: Hub, listing: Listing, tmp_path: Path, reset: bool
) -> None:
    hub.faults.cuts = [number * SIZE // 51 for number in range(1, 51)]
    hub.faults.reset, hub.faults.block = reset, 4096
    assert content(fetch(listing, tmp_path)) == FILES
    assert hub.faults.cuts == []


def test_a_killed_download_goes_on_where_it_was(hub: Hub, listing: Listing, tmp_path: Path) -> None:
    hub.faults.pause_at = 123_456
    with subprocess.Popen([sys.executable, "-c", FETCH, str(tmp_path)], cwd=ROOT) as process:
        part = tmp_path / PART
        wait_until(lambda: part.exists() and part.stat().st_size == 123_456)
        process.kill()
    hub.faults.go.set()
    hub.requests.clear()
    assert names(tmp_path) == [".owner_name.lock", ".owner_name.partial"]
    assert bytes_present(listing, tmp_path) >= 123_456
    assert content(fetch(listing, tmp_path)) == FILES
    assert ranges(hub) == [f"bytes=123456-{SIZE - 1}"]
    assert names(tmp_path) == ["owner_name"]


def test_a_crash_while_files_take_their_places_is_repaired(
    hub: Hub, listing: Listing, tmp_path: Path
) -> None:
    path = fetch(listing, tmp_path)
    changed = FILES | {"config.json": b'{"model_type": "mistral"}', "model.safetensors": b"new"}
    hub.add("owner/name", changed)
    newer = look(DownloadRequest(model="owner/name"))
    (path / "config.json").write_bytes(changed["config.json"])  # moved, and then it crashed
    hub.requests.clear()
    assert content(fetch(newer, tmp_path)) == changed
    assert len(hub.requests) == 1


def test_a_part_of_another_revision_is_not_continued(
    hub: Hub, listing: Listing, tmp_path: Path
) -> None:
    hub.faults.cuts = [100_000]
    incomplete(listing, tmp_path)
    changed = FILES | {"model.safetensors": random.Random(1).randbytes(SIZE)}
    hub.add("owner/name", changed)
    hub.requests.clear()
    assert content(fetch(look(DownloadRequest(model="owner/name")), tmp_path)) == changed
    assert ranges(hub) == [""]


def test_what_is_missing_is_told_and_what_came_is_kept(
    hub: Hub, listing: Listing, tmp_path: Path
) -> None:
    hub.faults.cuts = [200_000]
    error = incomplete(listing, tmp_path)
    assert "1 of 4 files of owner/name are missing: model.safetensors" in error.message
    assert "goes on from there" in error.remedy
    assert bytes_present(listing, tmp_path) == listing.total_bytes - 100_000


def test_a_partial_download_can_be_discarded(hub: Hub, listing: Listing, tmp_path: Path) -> None:
    hub.faults.cuts = [200_000]
    incomplete(listing, tmp_path)
    discard_partial(listing, tmp_path)
    assert names(tmp_path) == []


# -- a hub that fails or lies -----------------------------------------------------------


def test_a_hub_that_is_unavailable_is_asked_again(
    hub: Hub, listing: Listing, tmp_path: Path
) -> None:
    hub.faults.unavailable = 7
    assert content(fetch(listing, tmp_path, threads=1, max_retries=7)) == FILES


def test_patience_has_an_end(hub: Hub, listing: Listing, tmp_path: Path) -> None:
    hub.faults.unavailable = 1000
    error = incomplete(listing, tmp_path, max_retries=2)
    assert "is in trouble (status 503)" in error.message
    assert len(error.missing) == 3  # an empty file needs no request
    assert len(hub.content_requests()) == 9


def test_a_file_damaged_on_the_way_is_fetched_once_more(
    hub: Hub, listing: Listing, tmp_path: Path
) -> None:
    hub.faults.corrupt = 1
    assert content(fetch(listing, tmp_path)) == FILES
    assert len(hub.content_requests()) == 4


def test_a_file_damaged_twice_is_reported_and_not_kept(
    hub: Hub, listing: Listing, tmp_path: Path
) -> None:
    hub.faults.corrupt = 1000
    error = incomplete(listing, tmp_path)
    reasons = dict(error.missing)
    assert "came damaged twice: its sha256" in reasons["model.safetensors"]
    assert "came damaged twice: its sha1" in reasons["config.json"]
    assert bytes_present(listing, tmp_path) == 0


def test_a_part_damaged_on_the_disk_is_fetched_anew(
    hub: Hub, listing: Listing, tmp_path: Path
) -> None:
    hub.faults.cuts = [200_000]
    incomplete(listing, tmp_path)
    with (tmp_path / PART).open("r+b") as part:
        part.write(b"damage")
    assert content(fetch(listing, tmp_path)) == FILES


def test_a_part_that_is_too_long_is_fetched_anew(
    hub: Hub, listing: Listing, tmp_path: Path
) -> None:
    hub.faults.cuts = [200_000]
    incomplete(listing, tmp_path)
    (tmp_path / PART).write_bytes(b"x" * (SIZE + 1))
    assert content(fetch(listing, tmp_path)) == FILES


def test_a_hub_that_ignores_ranges_sends_the_whole_again(
    hub: Hub, listing: Listing, tmp_path: Path
) -> None:
    hub.faults.cuts, hub.faults.ignore_range = [200_000], True
    incomplete(listing, tmp_path)
    assert content(fetch(listing, tmp_path)) == FILES


@pytest.mark.parametrize("fault", ["wrong_range", "too_short", "too_long"])
def test_a_hub_that_lies_about_bytes_is_given_up(
    hub: Hub, listing: Listing, tmp_path: Path, fault: str
) -> None:
    hub.faults.cuts = [200_000]
    incomplete(listing, tmp_path)
    setattr(hub.faults, fault, True)
    hub.faults.ignore_range = fault == "too_long"
    if fault == "wrong_range":  # noticed, and started again from the first byte
        assert content(fetch(listing, tmp_path, max_retries=1)) == FILES
    else:
        assert "The hub lists model.safetensors with" in incomplete(listing, tmp_path, 3).message


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1])
def test_a_hub_that_lies_about_a_size_is_given_up(hub: Hub, tmp_path: Path, size: int) -> None:
    hub.add("owner/name", FILES)
    hub.faults.sizes = {"model.safetensors": size}
    error = incomplete(look(DownloadRequest(model="owner/name")), tmp_path, max_retries=2)
    assert [path for path, _ in error.missing] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("status", "code", "sentence"),
    [
        (403, "GatedRepo", "is gated"),
        (401, "", "shows no model"),
        (403, "", "does not let you read"),
        (404, "EntryNotFound", "lists a file"),
        (429, "", "limits how much you may ask"),
        (418, "", "status 418"),
    ],
)
def test_a_refusal_is_told_in_plain_words(
    hub: Hub, listing: Listing, tmp_path: Path, status: int, code: str, sentence: str
) -> None:
    hub.faults.status, hub.faults.error_code, hub.faults.retry_after = status, code, "3600"
    assert sentence in incomplete(listing, tmp_path, max_retries=5).message
    assert len(hub.content_requests()) == 3  # none was tried again


def test_the_token_stays_with_its_hub(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    files = {"config.json": b"{}", "model.safetensors": b"weights"}
    hub.add("owner/name", files)
    listing = look(DownloadRequest(model="owner/name"))
    with running_hub() as elsewhere:
        elsewhere.add("x/y", {"f": b"weights"})
        commit = commit_of({"f": b"weights"})
        hub.faults.redirect = f"{elsewhere.url}/x/y/resolve/{commit}/f"
        incomplete(listing, tmp_path)  # config.json is led to the weights too
        assert {asked.token for asked in hub.content_requests()} == {"hf_secret"}
        assert {asked.token for asked in elsewhere.requests} == {""}
        done = tmp_path / ".owner_name.partial" / "model.safetensors"
        assert done.read_bytes() == b"weights"


@pytest.mark.parametrize("address", ["http://localhost:1/x", "http://169.254.169.254/latest"])
def test_no_redirect_leads_about_the_local_network(
    hub: Hub, listing: Listing, tmp_path: Path, address: str
) -> None:
    hub.faults.redirect = address
    assert "without encryption" in incomplete(listing, tmp_path, max_retries=5).message


def test_a_redirect_in_a_circle_ends(hub: Hub, listing: Listing, tmp_path: Path) -> None:
    hub.faults.redirect = f"{hub.url}/owner/name/resolve/{listing.revision}/config.json"
    assert "in a circle" in incomplete(listing, tmp_path, max_retries=5).message
