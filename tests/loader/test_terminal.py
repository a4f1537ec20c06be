"""Progress on a terminal and in a pipe, and a download in words."""

from __future__ import annotations

import io

import pytest

from modules.loader.download import DownloadProgress, Listing, RemoteFile
from modules.loader.download.meter import Meter
from modules.loader.download.report import describe, progress_text, size_text, time_text
from modules.loader.terminal import ProgressLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_one_line_that_is_rewritten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    stream = Terminal()
    line = ProgressLine(stream)
    line.show("Downloading", 0.5, "1.0 MB of 2.0 MB, 1.0 MB/s")
    line.show("Downloading", 1.0)
    line.end()
    assert stream.getvalue() == f"\r 50% Downloading: 1.0 MB of 2\r{'100% Downloading':<29}\n"


def test_a_pipe_gets_one_line_a_stage() -> None:
    stream = io.StringIO()
    line = ProgressLine(stream)
    for fraction in (0.0, 0.5, 1.0):
        line.show("Downloading", fraction, "1.0 MB/s")
    line.end()
    assert stream.getvalue() == "  0% Downloading\n"


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1500, "1.5 kB"),
        (2_500_000, "2.5 MB"),
        (3_896_000_000, "3.90 GB"),
    ],
)
def test_sizes_are_short(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59, "59 s"),
        (61, "1 min 01 s"),
        (7300, "2 h 01 min"),
        (1e300, "2777 h 46 min"),
    ],
)
def test_times_are_short(seconds: float, text: str) -> None:
    assert time_text(seconds) == text


def test_progress_is_one_line() -> None:
    progress = DownloadProgress(1_000_000, 4_000_000, 1_500_000.0, 2.0, "model.safetensors")
    assert progress_text(progress) == "1.0 MB of 4.0 MB, 1.5 MB/s, 2 s left, model.safetensors"
    assert progress_text(DownloadProgress(0, 5, 0.0, None, "")) == "0 B of 5 B"
    assert progress.fraction == 0.25


def test_speed_is_that_of_the_last_seconds_and_not_of_what_was_there() -> None:
    now = 0.0
    meter = Meter(1000, lambda: now)
    meter.moved("a", 500)
    now = 1.0
    assert meter.progress().speed == 0
    meter.moved("a", 700, received=200)
    now = 2.0
    progress = meter.progress()
    assert (progress.done, progress.speed, progress.seconds_left) == (700, 100, 3)
    for _ in range(10):
        now += 1.0
        progress = meter.progress()
    assert (progress.speed, progress.seconds_left) == (0, None)


def test_reasons_are_grouped_and_names_cannot_steer_the_terminal() -> None:
    left_out = [(f"{number}.bin", "pickles can run code") for number in range(5)]
    left_out.append(("\x1b[2Jx\n", "its name is not allowed"))
    files = (RemoteFile("config.json", 2, ""),)
    lines = describe(Listing("a/b", "main", "c" * 40, "a_b", False, files, tuple(left_out)))
    assert lines[1:] == [
        "Left out, because pickles can run code: 0.bin, 1.bin, 2.bin and 2 more",
        "Left out, because its name is not allowed: ?[2Jx?",
    ]
