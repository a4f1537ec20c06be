"""Foreign names never leave their folder, and files are replaced whole or not at all."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modules.errors import InvalidNameError, StorageError
from modules.paths import Paths, safe_child, write_atomically

UPS = [
    "..", "../", "..\\", "%2e%2e/", "%2e%2e%2f", "..%2f", "..%5c", "%252e%252e%252f", "..;/",
    "....//", "..././", "\uff0e\uff0e/", "\u2025/", "\u2024\u2024/", "..\uff0f", "..\u2215",
    "..\u2044", "..\uff3c", "\u202e../", "\u200b../",
    "\x00../", "..\x00/", ".%00./", "\xc0\xae\xc0\xae/", "\ud800../",
]  # fmt: skip
ROOTS = [
    "/", "//", "\\\\", "C:\\", "c:/", "C:", "\\\\?\\C:\\", "\\\\server\\share\\", "file:///",
    "~/", "~root/", "$HOME/", "%USERPROFILE%\\", "`pwd`/", "/proc/self/root/", "/dev/fd/", "|",
]  # fmt: skip
TARGETS = ["etc/passwd", "secret", "secret.txt", ".ssh/id_rsa", "a", "", ".", "..", "con", "x\n"]
RESERVED = ["con", "PRN", "aux", "NUL", *(f"com{i}" for i in range(10)), "LPT1", "lPt9"]
ENDS = ["", ".txt", ".", " ", "\x00", "\n", "\r", "/", "\\", ":stream", "::$DATA", ".tar.gz"]


def hostile_names() -> list[str]:
    names = [up * deep + target for up in UPS for deep in (1, 2, 8) for target in TARGETS]
    names += [root + target + end for root in ROOTS for target in TARGETS for end in ENDS]
    names += [a + up + b for up in UPS for a in ("a/", "a", " ", "-") for b in ("b", "/b", "")]
    names += [name + end for name in RESERVED for end in (*ENDS, ".a.b", "/x")]
    names += [chr(c) + "name" + end for c in range(0x20) for end in ENDS]
    names += ["na" + chr(c) + "me" for c in [*range(0x20), 0x7F, *range(0x2000, 0x2070)]]
    names += [chr(c) * n for c in range(0x7F, 0x400) for n in (1, 3)]
    names += ["a" * n + end for n in (201, 255, 256, 4096, 100_000) for end in ENDS]
    return list(dict.fromkeys(names))


def test_five_thousand_hostile_names_all_stay_in_their_folder(tmp_path: Path) -> None:
    root = tmp_path / "prompts"
    root.mkdir()
    names = hostile_names()
    escaped = []
    for name in names:
        try:
            child = safe_child(root, name)
        except InvalidNameError:
            continue
        if child.resolve().parent != root.resolve():
            escaped.append(name)
    assert len(names) >= 5000
    assert escaped == []


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "C:x", ".hidden", "-rf", "a\x00b",
        "a\n", "nul", "COM1.txt", "lpt9", "x.", "x ", "é", "\u0430", "a:b", "a*", "~", "a" * 201,
    ],
)  # fmt: skip
def test_a_name_that_is_no_plain_file_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidNameError) as caught:
        safe_child(tmp_path, name)
    assert caught.value.remedy
    assert caught.value.field == "name"
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    "name",
    ["SmolLM2-135M-Instruct", "a", "Q4_K_M (1).gguf", "x=1, y+2", "it's", "concord", "a" * 200],
)
def test_a_plain_name_is_taken_as_it_is(name: str, tmp_path: Path) -> None:
    assert safe_child(tmp_path, name) == tmp_path / name


@settings(
    derandomize=True, deadline=None, max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(name=st.text(max_size=40) | st.text("./\\:~ aA\x00\n-", max_size=12))
def test_no_text_at_all_leads_out(name: str, tmp_path: Path) -> None:
    try:
        child = safe_child(tmp_path, name)
    except InvalidNameError:
        return
    assert child.resolve().parent == tmp_path.resolve()
    assert child.name == name


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "way-out").symlink_to(tmp_path)
    with pytest.raises(InvalidNameError, match="leads out of root/"):
        safe_child(tmp_path / "root", "way-out")


def test_a_link_to_a_sibling_with_the_same_beginning_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root-of-another").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "root-of-another")
    with pytest.raises(InvalidNameError):
        safe_child(tmp_path / "root", "link")


def test_a_link_within_the_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert safe_child(tmp_path, "link") == tmp_path / "link"


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(InvalidNameError):
        safe_child(tmp_path, "loop")


def test_a_root_that_is_a_link_itself_is_no_way_out(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "real")
    assert safe_child(tmp_path / "root", "x") == tmp_path / "root" / "x"


# -- writing ----------------------------------------------------------------------------


def test_a_file_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    write_atomically(file, "old")
    write_atomically(file, "new é")
    assert file.read_text(encoding="utf-8") == "new é"
    assert [path.name for path in tmp_path.iterdir()] == ["x.yaml"]


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "x.yaml").write_text("old")
    monkeypatch.setattr(os, fails, full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "x.yaml", "new")
    assert (tmp_path / "x.yaml").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x.yaml"]


# -- the folders ------------------------------------------------------------------------


def paths(user_data: Path, models: Path) -> Paths:
    return Paths(root=user_data.parent, models=models, prompts=models, user_data=user_data)


def test_the_folders_are_made_and_left_empty(tmp_path: Path) -> None:
    made = paths(tmp_path / "deep" / "user_data", tmp_path / "models")
    made.prepare()
    assert list(itertools.chain(made.user_data.iterdir(), made.models.iterdir())) == []


@pytest.mark.parametrize("bad", ["user_data", "models"])
def test_a_folder_that_cannot_be_made_is_named_with_its_flag(bad: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folders = {"user_data": tmp_path / "user_data", "models": tmp_path / "models"}
    folders[bad] = tmp_path / "file" / bad
    flag = {"user_data": "--user-data-dir", "models": "--model-dir"}[bad]
    with pytest.raises(StorageError, match=f"cannot write to .*{bad}.*{flag}"):
        paths(**folders).prepare()


def test_a_folder_that_takes_no_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", read_only)
    with pytest.raises(StorageError, match="Read-only file system"):
        paths(tmp_path / "user_data", tmp_path / "models").prepare()
