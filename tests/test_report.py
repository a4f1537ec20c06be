"""The report to paste into an issue."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import pytest

from modules.loader.machine import Card, Machine
from modules.report import Facts, commit_of, version_of, written_report
from modules.settings import Origins, Settings

CARD = Card(0, "NVIDIA H100", 80 * 10**9, 70 * 10**9, (9, 0))
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def report(**changed: Any) -> str:
    facts = {
        "settings": Settings(),
        "origins": Origins(),
        "machine": Machine((CARD,), 64 * 10**9, 32 * 10**9, 100 * 10**9),
    }
    return written_report(Facts(**facts | changed))


def test_it_tells_versions_and_the_machine() -> None:
    text = report(driver="550.54")
    for told in (
        f"Python {platform.python_version()}",
        f"gradio {importlib.metadata.version('gradio')}",
        "card 0: NVIDIA H100, 70.0 GB of 80.0 GB free, compute capability 9.0",
        "NVIDIA driver 550.54",
        "memory: 32.0 GB of 64.0 GB free",
        f"version {version_of()}",
    ):
        assert told in text


def test_settings_are_told_where_they_differ_with_where_they_come_from() -> None:
    settings = Settings(listen_port=7999, lora=("a", "b"), api_key="very-secret", cpu=True)
    text = report(settings=settings, origins=Origins(sources={"listen_port": "flag"}))
    assert "- listen_port: 7999 (from a flag)" in text
    assert "- lora: a, b" in text
    assert "- api_key: (hidden)" in text
    assert "very-secret" not in text
    assert "wbits" not in text


def test_errors_cannot_end_their_frame_and_the_end_of_a_long_one_is_told() -> None:
    text = report(errors=["```\n# mine", "x" * 5_000 + "ValueError"])
    assert text.count("```") == 4
    assert "ValueError" in text
    assert len(text) < 5_000


def test_without_cards_and_errors_it_says_so() -> None:
    text = report(machine=Machine((), 1, 1, 1), extensions=[("poet", "failed, no such hook")])
    assert "- no NVIDIA card" in text
    assert "- poet: failed, no such hook" in text
    assert "### Latest errors\n- none" in text


@pytest.fixture
def git(tmp_path: Path) -> Path:
    (tmp_path / ".git" / "refs" / "heads").mkdir(parents=True)
    (tmp_path / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    return tmp_path / ".git"


def test_the_commit_is_read_from_the_branch(git: Path) -> None:
    (git / "refs" / "heads" / "main").write_text(f"{COMMIT}\n")
    assert commit_of(git.parent) == COMMIT


def test_the_commit_is_read_from_packed_branches(git: Path) -> None:
    (git / "packed-refs").write_text(f"# pack-refs\n{COMMIT} refs/heads/main\n")
    assert commit_of(git.parent) == COMMIT


def test_the_commit_is_read_without_a_branch(git: Path) -> None:
    (git / "HEAD").write_text(COMMIT)
    assert commit_of(git.parent) == COMMIT


def test_a_worktree_has_the_commit_of_its_branch(git: Path, tmp_path: Path) -> None:
    (git / "refs" / "heads" / "side").write_text(COMMIT)
    side = git / "worktrees" / "side"
    side.mkdir(parents=True)
    (side / "HEAD").write_text("ref: refs/heads/side")
    (side / "commondir").write_text("../..")
    (tmp_path / "side").mkdir()
    (tmp_path / "side" / ".git").write_text(f"gitdir: {side}")
    assert commit_of(tmp_path / "side") == COMMIT


@pytest.mark.parametrize("head", ["", "ref: refs/heads/none", "ref: ../../../etc/passwd", "x" * 40])
def test_what_is_no_checkout_has_no_commit(head: str, git: Path) -> None:
    (git / "HEAD").write_text(head)
    assert commit_of(git.parent) == ""


def test_an_installation_without_its_project_file_has_no_version(tmp_path: Path) -> None:
    assert version_of(tmp_path) == "unknown"
    assert commit_of(tmp_path) == ""
