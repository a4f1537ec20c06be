"""The command line: quick help, and mistakes that are one sentence with a remedy."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import server
from modules.settings import ROOT

HEAVY = ("gradio", "torch", "transformers", "fastapi", "starlette", "uvicorn", "pydantic", "numpy")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings of the machine that the tests run on."""
    for name in [name for name in os.environ if name.startswith("LANTERN_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    """Flags that keep a launch out of the repository."""
    return ["--user-data-dir", str(tmp_path / "data"), "--model-dir", str(tmp_path / "models")]


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that another program listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def refused(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """The one line that is said of a launch that cannot be."""
    assert server.main(flags) == 2
    said = capsys.readouterr()
    assert said.err == ""
    (line,) = said.out.splitlines()
    assert line.count(". ") >= 1 or line.endswith("?"), "a sentence and a remedy"
    assert "Traceback" not in line
    assert len(line) < 500
    return line


# -- help -------------------------------------------------------------------------------


def test_help_is_answered_without_the_heavy_libraries(
    capsys: pytest.CaptureFixture[str],
) -> None:
    program = (
        "import json, sys, server\n"
        "from modules.settings import load_settings\n"
        "load_settings(['--cpu'], {})\n"
        "print(json.dumps([name for name in sys.modules]))"
    )
    loaded = {name.partition(".")[0] for name in json.loads(python("-c", program).stdout)}
    assert loaded.isdisjoint(HEAVY)
    started = time.perf_counter()
    answer = python("server.py", "--help")
    with capsys.disabled():
        sys.stdout.write(f"\nserver.py --help: {time.perf_counter() - started:.2f} s\n")
    assert answer.returncode == 0
    assert "--listen-port" in answer.stdout


# -- mistakes ---------------------------------------------------------------------------


def test_a_taken_port_is_said_at_once(
    taken: int, folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, *folders, "--listen-port", str(taken))
    assert f"port {taken}" in line
    assert "try another --listen-port" in line


@pytest.mark.parametrize(
    "flags",
    [
        ["--listen-port", "-1"],
        ["--listen-port", "65536"],
        ["--listen-port", "many"],
        ["--listen-port"],
        ["--listen-prot", "7999"],
        ["--cpu=yes"],
        ["stray"],
        ["--settings", "none.yaml"],
    ],
    ids=" ".join,
)
def test_a_wrong_flag_is_one_line_with_a_remedy(
    flags: list[str], folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert flags[0].strip("-").partition("=")[0] in refused(capsys, *folders, *flags)


@pytest.mark.parametrize(
    "text",
    ["listen_port: [", "listen_port: -1", "listen_port: x", "listen_prot: 1", "- a", "\x07",
     "cpu: 7", "model_dir: [a]", 'user_data_dir: "a\\0b"'],
)  # fmt: skip
def test_a_broken_settings_file_is_one_line_with_a_remedy(
    text: str, tmp_path: Path, folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "settings.yaml").write_text(text)
    refused(capsys, *folders, "--settings", str(tmp_path / "settings.yaml"))


def test_an_unknown_key_names_its_nearest_neighbour(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my.yaml").write_text("auto_lunch: true")
    line = refused(capsys, "--settings", str(tmp_path / "my.yaml"))
    assert "'auto_lunch'" in line
    assert "Did you mean auto_launch?" in line


def test_an_unknown_flag_names_its_nearest_neighbour(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Did you mean --no-starter?" in refused(capsys, "--no-startr")


@pytest.mark.parametrize("flag", ["--user-data-dir", "--model-dir"])
def test_a_folder_that_cannot_be_written_is_one_line_with_its_flag(
    flag: str, tmp_path: Path, folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    line = refused(capsys, *folders, flag, str(tmp_path / "file" / "below"))
    assert "cannot write" in line
    assert flag in line


def test_a_mistake_in_the_environment_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LANTERN_LISTEN_PORT", "seven")
    assert "LANTERN_LISTEN_PORT cannot be 'seven'." in refused(capsys)


def test_a_launch_that_cannot_be_exits_with_2_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    answer = python("server.py", "--user-data-dir", str(tmp_path / "file" / "data"))
    assert answer.returncode == 2
    assert len(answer.stdout.splitlines()) == 1
    assert answer.stderr == ""


# -- precedence -------------------------------------------------------------------------


def test_flags_win_over_the_environment_and_that_over_yaml(
    tmp_path: Path, taken: int, folders: list[str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "my.yaml").write_text("listen_port: -3\nlisten_host: 127.0.0.1")
    monkeypatch.setenv("LANTERN_LISTEN_PORT", "-2")
    yaml = ["--settings", str(tmp_path / "my.yaml")]
    assert "cannot be -2" in refused(capsys, *folders, *yaml)
    assert f"port {taken}" in refused(capsys, *folders, *yaml, "--listen-port", str(taken))
    monkeypatch.delenv("LANTERN_LISTEN_PORT")
    assert "cannot be -3" in refused(capsys, *folders, *yaml)
