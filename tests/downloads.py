"""What the tests of downloads share: a small model, and what a download left of it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from modules.errors import DownloadIncompleteError
from modules.loader.download import Listing, fetch
from tests.hub import Hub

SIZE = 300_000
WEIGHTS = random.Random(0).randbytes(SIZE)
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "empty.txt": b"",
    "model.safetensors": WEIGHTS,
    "sub/tokenizer.json": b"{}",
}
PART = ".owner_name.partial/.model.safetensors.part"
FETCH = (
    "import sys; from pathlib import Path\n"
    "from modules.loader.download import DownloadRequest, fetch, look\n"
    "fetch(look(DownloadRequest(model='owner/name')), Path(sys.argv[1]))"
)
"""A program that fetches into the folder that it is given."""


def content(folder: Path) -> dict[str, bytes]:
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    found.pop("lantern-download.json", None)
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def ranges(hub: Hub) -> list[str]:
    """What was asked of the weights."""
    return [asked.range for asked in hub.content_requests() if "safetensors" in asked.path]


def incomplete(listing: Listing, parent: Path, max_retries: int = 0) -> DownloadIncompleteError:
    with pytest.raises(DownloadIncompleteError) as caught:
        fetch(listing, parent, max_retries=max_retries)
    assert not (parent / listing.folder).exists()
    assert "\n" not in str(caught.value)
    return caught.value


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)
