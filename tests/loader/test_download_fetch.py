"""What a download leaves: the whole model, verified, or nothing under its name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from modules.errors import DownloadError, InvalidInputError
from modules.loader.download import (
    DownloadProgress,
    DownloadRequest,
    Listing,
    fetch,
    look,
    read_record,
    verify,
)
from modules.loader.download import transfer as transfer_module
from tests.downloads import (
    FILES,
    PART,
    SIZE,
    WEIGHTS,
    content,
    incomplete,
    names,
    ranges,
)
from tests.hub import Hub

ROOT = Path(__file__).parents[2]


@pytest.fixture
def listing(hub: Hub) -> Listing:
    hub.add("owner/name", FILES)
    return look(DownloadRequest(model="owner/name"))


# -- what arrives -----------------------------------------------------------------------


def test_a_download_leaves_the_model_with_its_record_and_nothing_else(
    listing: Listing, tmp_path: Path
) -> None:
    path = fetch(listing, tmp_path)
    assert content(path) == FILES
    assert names(tmp_path) == ["owner_name"]
    record = read_record(path)
    assert record is not None
    assert (record.repo, record.revision, record.files) == (
        "owner/name",
        listing.revision,
        listing.files,
    )


def test_a_complete_model_is_recognised_and_not_asked_for_again(
    hub: Hub, listing: Listing, tmp_path: Path
) -> None:
    fetch(listing, tmp_path)
    asked = len(hub.requests)
    assert fetch(listing, tmp_path) == tmp_path / "owner_name"
    assert len(hub.requests) == asked


def test_a_model_that_was_copied_by_hand_is_read_and_recognised(
    hub: Hub, listing: Listing, tmp_path: Path
) -> None:
    (fetch(listing, tmp_path) / "lantern-download.json").unlink()
    hub.requests.clear()
    fetch(listing, tmp_path)
    assert hub.requests == []
    assert read_record(tmp_path / "owner_name") is not None


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * SIZE])
def test_a_file_that_is_missing_or_wrong_is_the_only_one_fetched(
    hub: Hub, listing: Listing, tmp_path: Path, damage: bytes
) -> None:
    path = fetch(listing, tmp_path)
    (path / "model.safetensors").write_bytes(damage)
    (path / "lantern-download.json").unlink()
    (path / "mine.txt").write_text("kept")
    hub.requests.clear()
    fetch(listing, tmp_path)
    assert content(path) == FILES | {"mine.txt": b"kept"}
    assert len(hub.requests) == 1
    assert names(tmp_path) == ["owner_name"]


def test_texts_first_and_weights_later_end_as_one_model(hub: Hub, tmp_path: Path) -> None:
    hub.add("owner/name", FILES)
    fetch(look(DownloadRequest(model="owner/name", text_only=True)), tmp_path)
    assert "model.safetensors" not in content(tmp_path / "owner_name")
    one = look(DownloadRequest(model="owner/name", specific_file="model.safetensors"))
    path = fetch(one, tmp_path)
    assert content(path) == FILES
    record = read_record(path)
    assert record is not None
    assert {file.path for file in record.files} == set(FILES)


def test_a_new_revision_replaces_what_changed_and_removes_what_is_gone(
    hub: Hub, listing: Listing, tmp_path: Path
) -> None:
    path = fetch(listing, tmp_path)
    (path / "mine.txt").write_text("kept")
    newer = {"config.json": FILES["config.json"], "model-00001-of-00001.safetensors": b"new"}
    hub.add("owner/name", newer)
    hub.requests.clear()
    fetch(look(DownloadRequest(model="owner/name")), tmp_path)
    assert content(path) == newer | {"mine.txt": b"kept"}
    assert len(hub.content_requests()) == 1


def test_another_model_that_would_get_the_same_folder_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.add("a/b_c", FILES)
    hub.add("a_b/c", FILES)
    fetch(look(DownloadRequest(model="a/b_c")), tmp_path)
    with pytest.raises(DownloadError, match="came from a/b_c"):
        fetch(look(DownloadRequest(model="a_b/c")), tmp_path)


def test_progress_ends_at_the_whole_and_names_files(listing: Listing, tmp_path: Path) -> None:
    seen: list[DownloadProgress] = []
    fetch(listing, tmp_path, on_progress=seen.append)
    assert {progress.total for progress in seen} == {listing.total_bytes}
    assert seen[0].done == 0
    assert seen[-1].done == listing.total_bytes


def test_progress_tells_speed_and_remaining_time(
    hub: Hub, listing: Listing, tmp_path: Path
) -> None:
    hub.faults.block, hub.faults.delay_s = 30_000, 0.05
    seen: list[DownloadProgress] = []
    fetch(listing, tmp_path, on_progress=seen.append)
    moving = [progress for progress in seen if progress.speed > 0]
    assert moving
    assert moving[-1].file == "model.safetensors"
    assert all(progress.seconds_left is not None for progress in moving)


def test_a_file_larger_than_one_answer_comes_in_pieces(
    hub: Hub, listing: Listing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer_module, "_PIECE", 120_000)
    assert content(fetch(listing, tmp_path)) == FILES
    assert ranges(hub) == ["bytes=0-119999", "bytes=120000-239999", "bytes=240000-299999"]


# -- the disk ---------------------------------------------------------------------------


def test_too_little_disk_is_noticed_before_anything_moves(
    hub: Hub, listing: Listing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = SimpleNamespace(free=listing.total_bytes - 1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: free)
    with pytest.raises(DownloadError, match="of disk space"):
        fetch(listing, tmp_path)
    assert hub.content_requests() == []


def test_what_is_there_needs_no_disk_space(
    hub: Hub, listing: Listing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.faults.cuts = [200_000]
    incomplete(listing, tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100_000))
    assert content(fetch(listing, tmp_path)) == FILES


def test_a_disk_that_fills_up_is_told_and_what_came_is_kept(
    listing: Listing, tmp_path: Path
) -> None:
    program = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from modules.errors import DownloadError\n"
        "from modules.loader.download import *\n"
        "listing = look(DownloadRequest(model='owner/name'))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "try: fetch(listing, Path(sys.argv[1]))\n"
        "except DownloadError as error: print(error)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "could not be written" in result.stdout
    assert (tmp_path / PART).stat().st_size == 200_000
    assert content(fetch(listing, tmp_path)) == FILES


def test_a_folder_that_cannot_be_made_is_reported(listing: Listing, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(DownloadError, match="could not be written"):
        fetch(listing, tmp_path / "models")


def test_a_link_does_not_lead_a_download_out_of_its_folder(
    listing: Listing, tmp_path: Path
) -> None:
    parent, outside = tmp_path / "models", tmp_path / "outside"
    outside.mkdir()
    parent.mkdir()
    (parent / "owner_name").symlink_to(outside)
    with pytest.raises(InvalidInputError, match="leads out"):
        fetch(listing, parent)
    assert names(outside) == []


def test_paths_that_contradict_each_other_are_one_sentence(hub: Hub, tmp_path: Path) -> None:
    hub.add("owner/name", {"a.json": b"{}", "b.json": b"{}", "model.safetensors": b"x"})
    hub.faults.paths = {"b.json": "a.json/b.json"}
    with pytest.raises(DownloadError):
        fetch(look(DownloadRequest(model="owner/name")), tmp_path)
    assert not (tmp_path / "owner_name").exists()


# -- the record -------------------------------------------------------------------------


def test_a_check_finds_what_is_wrong_with_each_file(listing: Listing, tmp_path: Path) -> None:
    path = fetch(listing, tmp_path)
    assert not any(problem for _, problem in verify(path, listing.files))
    (path / "config.json").unlink()
    (path / "model.safetensors").write_bytes(WEIGHTS[:-1] + b"?")
    (path / "sub/tokenizer.json").write_bytes(b"")
    found = dict(verify(path, listing.files))
    assert found["config.json"] == "it is missing"
    assert found["model.safetensors"] == "its sha256 is not the one that the hub lists"
    assert found["sub/tokenizer.json"] == "it has 0 bytes instead of 2"
    assert found["empty.txt"] == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        '{"files": 7}',
        '{"files": [{"path": 7, "size": 1, "sha256": ""}]}',
        json.dumps({"repo": "a/b", "branch": "x", "revision": "y", "files": [], "more": 1}),
        '{"repo":"a/b","branch":"x","revision":"y","files":[{"path":"p","size":1,"sha256":[]}]}',
        "[" * 100000,
    ],
)
def test_a_record_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "lantern-download.json").write_text(text)
    assert read_record(tmp_path) is None
