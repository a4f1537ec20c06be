"""Saving settings: what changes is changed, and the rest of the file stays as it was written."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from modules.errors import SettingsError, StorageError
from modules.settings import Origins, load_settings, read_launch
from modules.settings_file import edited, save_settings, saved_values

WRITTEN = """# of mine
listen-port: 7999  # the other one is taken

cpu: true
lora:
  - one
  - two   # the second
# the end
model: 'a b'
"""


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("LANTERN_")]:
        monkeypatch.delenv(name)


def origins(folder: Path, text: str | None = WRITTEN, *flags: str) -> Origins:
    file = folder / "settings.yaml"
    if text is not None:
        file.write_text(text)
        return read_launch(["--settings", str(file), *flags], {})[1]
    return Origins(file=file)


@pytest.mark.parametrize(
    ("changes", "old", "new"),
    [
        ({"listen_port": 8001}, "listen-port: 7999  #", "listen-port: 8001  #"),
        ({"lora": ["three"]}, "  - one\n  - two   #", "  [three]   #"),
        ({"lora": None}, "lora:\n  - one\n  - two   # the second\n", ""),
        ({"cpu": None}, "cpu: true\n", ""),
        ({"model": "it's: #1"}, "'a b'", "'it''s: #1'"),
        ({"character": "Ann"}, "'a b'\n", "'a b'\ncharacter: Ann\n"),
        ({"poet-rate": 0.5}, "'a b'\n", "'a b'\npoet-rate: 0.5\n"),
        (
            {"listen_port": None, "poet-rate": None},
            "listen-port: 7999  # the other one is taken\n",
            "",
        ),
        ({"api_key": "true"}, "'a b'\n", "'a b'\napi_key: 'true'\n"),
    ],
)
def test_only_what_changes_is_changed(changes: Any, old: str, new: str) -> None:
    assert old in WRITTEN
    assert edited(WRITTEN, changes) in (WRITTEN.replace(old, new), WRITTEN.replace(old, new[1:]))


def test_a_new_file_has_what_was_set() -> None:
    assert edited("", {"cpu": True, "lora": ["a", "b"]}) == "cpu: true\nlora: [a, b]\n"


def test_lines_keep_the_ends_that_they_have() -> None:
    assert edited("cpu: true\r\n", {"verbose": True}) == "cpu: true\r\nverbose: true\r\n"


@pytest.mark.parametrize("text", ["{cpu: true, model: x}", "? cpu\n: true\nmodel: x", "model: x"])
def test_other_spellings_of_a_file_keep_their_values(text: str) -> None:
    import yaml

    found = yaml.safe_load(edited(text, {"verbose": True, "cpu": False}))
    assert found == {"cpu": False, "model": "x", "verbose": True}


def test_a_setting_that_stands_twice_is_taken_out_twice() -> None:
    assert edited("cpu: true\nverbose: true\ncpu: false\n", {"cpu": None}) == "verbose: true\n"


def test_what_is_saved_is_what_the_next_launch_has(tmp_path: Path) -> None:
    told = origins(tmp_path)
    settings = save_settings(told, {"listen_port": "8001", "gpu_memory": ["20", "3500MiB"]})
    assert settings == load_settings(["--settings", str(told.file)], {})
    assert (settings.listen_port, settings.model) == (8001, "a b")
    assert settings.gpu_memory == (20 * 2**30, 3500 * 2**20)
    assert saved_values(told.file)["gpu_memory"] == ["20", "3500MiB"]
    assert "listen-port: 8001  # the other" in told.file.read_text()


def test_a_default_is_not_written(tmp_path: Path) -> None:
    told = origins(tmp_path)
    save_settings(told, {"listen_port": 7860, "verbose": False})
    assert "port" not in told.file.read_text()
    assert "verbose" not in told.file.read_text()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"listen_port": "99999"}, "--listen-port cannot be 99999"),
        ({"listen_port": "many"}, "--listen-port cannot be 'many'"),
        ({"loader": "x"}, "--loader cannot be 'x'"),
        ({"load_in_8bit": True, "load_in_4bit": True}, "contradict"),
        ({"nonsense": 1}, "no setting 'nonsense'"),
    ],
)
def test_what_a_launch_would_refuse_is_not_written(changes: Any, said: str, tmp_path: Path) -> None:
    told = origins(tmp_path)
    with pytest.raises(SettingsError, match=said) as caught:
        save_settings(told, changes)
    assert caught.value.remedy
    assert told.file.read_text() == WRITTEN


def test_what_a_flag_contradicts_is_not_written(tmp_path: Path) -> None:
    told = origins(tmp_path, WRITTEN, "--load-in-8bit")
    with pytest.raises(SettingsError, match="contradict"):
        save_settings(told, {"load_in_4bit": True})


def test_a_file_that_may_hold_keys_is_for_its_owner_alone(tmp_path: Path) -> None:
    told = origins(tmp_path, None)
    save_settings(told, {"api_key": "a-long-secret"})
    assert stat.S_IMODE(told.file.stat().st_mode) == 0o600
    told.file.chmod(0o640)
    save_settings(told, {"cpu": True})
    assert stat.S_IMODE(told.file.stat().st_mode) == 0o640


def test_a_link_to_a_file_stays_one(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    real = origins(tmp_path / "kept").file
    link = tmp_path / "settings.yaml"
    link.symlink_to(real)
    save_settings(Origins(file=link), {"cpu": None})
    assert link.is_symlink()
    assert "cpu" not in real.read_text()


def test_a_file_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    told = Origins(file=tmp_path / "gone" / "settings.yaml")
    with pytest.raises(StorageError, match="cannot be written"):
        save_settings(told, {"cpu": True})


def test_a_damaged_file_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("cpu: [")
    with pytest.raises(SettingsError, match="not valid YAML"):
        save_settings(Origins(file=file), {"verbose": True})
    assert file.read_text() == "cpu: ["


def test_each_value_knows_where_it_came_from(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("listen_port: 1\nmodel: x\napi_key: k\n")
    argv = ["--settings", str(file), "--listen-port", "3"]
    settings, told = read_launch(argv, {"LANTERN_MODEL": "y", "LANTERN_LISTEN_PORT": "2"})
    assert settings.listen_port == 3
    found = {name: told.of(name) for name in ("listen_port", "model", "api_key", "cpu")}
    assert list(found.values()) == ["flag", "variable", "file", "default"]
    assert told.file == file
