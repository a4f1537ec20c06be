"""Prompt templates are plain files below one folder, and nothing else is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.chat.prompt_files import list_prompts, read_prompt
from modules.errors import InvalidNameError, NotFoundError
from modules.settings import Settings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "prompts"
    folder.mkdir()
    for name in ("QA", "alpaca", "Zebra"):
        (folder / f"{name}.txt").write_text(f"the text of {name} é\n", encoding="utf-8")
    (tmp_path / "secret.txt").write_text("secret")
    return folder


def test_templates_are_listed_by_name(folder: Path) -> None:
    (folder / "notes.md").write_text("")
    assert list_prompts(folder) == ["alpaca", "QA", "Zebra"]


def test_a_template_is_read_as_it_is(folder: Path) -> None:
    assert read_prompt(folder, "QA") == "the text of QA é\n"


def test_what_is_listed_can_be_read(folder: Path) -> None:
    (folder / ".hidden.txt").write_text("")
    (folder / "folder.txt").mkdir()
    (folder / "way-out.txt").symlink_to(folder.parent / "secret.txt")
    (folder / "é.txt").write_text("")
    (folder / "dangling.txt").symlink_to(folder / "nothing")
    assert list_prompts(folder) == ["alpaca", "QA", "Zebra"]


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "", ".", "QA\x00", "a/b", "nul"])
def test_a_name_that_is_none_is_refused(name: str, folder: Path) -> None:
    with pytest.raises(InvalidNameError):
        read_prompt(folder, name)


def test_a_link_that_leads_out_is_not_read(folder: Path) -> None:
    (folder / "way-out.txt").symlink_to(folder.parent / "secret.txt")
    with pytest.raises(InvalidNameError):
        read_prompt(folder, "way-out")


def test_a_template_that_is_not_there_is_not_found(folder: Path) -> None:
    with pytest.raises(NotFoundError, match="no readable prompt 'none'"):
        read_prompt(folder, "none")


def test_a_file_that_is_no_text_is_not_found(folder: Path) -> None:
    (folder / "image.txt").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(NotFoundError):
        read_prompt(folder, "image")


def test_a_folder_that_is_not_there_has_no_templates(tmp_path: Path) -> None:
    assert list_prompts(tmp_path / "none") == []


def test_every_template_that_comes_with_lantern_can_be_read() -> None:
    prompts = Settings().paths.prompts
    assert len(list_prompts(prompts)) >= 3
    assert all(read_prompt(prompts, name).strip() for name in list_prompts(prompts))
