"""Prompt templates are plain files below one folder, and nothing else is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.chat.prompt_files import (
    MAX_PROMPT_CHARS,
    delete_prompt,
    list_prompts,
    read_prompt,
    save_prompt,
)
from modules.errors import InvalidInputError, InvalidNameError, NotFoundError, StorageError
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


def test_a_file_that_is_no_text_is_told_with_the_place(folder: Path) -> None:
    (folder / "image.txt").write_bytes("é".encode() + b"\x89PNG\xff\xfe")
    with pytest.raises(InvalidInputError, match=r"prompts/image.txt is no UTF-8 .* byte 2 on"):
        read_prompt(folder, "image")


@pytest.mark.parametrize("size", [MAX_PROMPT_CHARS + 1, 5 * MAX_PROMPT_CHARS])
def test_a_file_that_is_too_large_is_refused(size: int, folder: Path) -> None:
    (folder / "large.txt").write_text("x" * size)
    with pytest.raises(InvalidInputError, match="more than 200,000 characters"):
        read_prompt(folder, "large")


def test_a_folder_that_is_not_there_has_no_templates(tmp_path: Path) -> None:
    assert list_prompts(tmp_path / "none") == []


def test_every_template_that_comes_with_lantern_can_be_read() -> None:
    prompts = Settings().paths.prompts
    assert len(list_prompts(prompts)) >= 3
    assert all(read_prompt(prompts, name).strip() for name in list_prompts(prompts))


# -- saving -----------------------------------------------------------------------------


def test_a_prompt_is_saved_as_it_is_and_read_back(folder: Path) -> None:
    save_prompt(folder, "Mine", "é \n\ttext", replace=False)
    assert read_prompt(folder, "Mine") == "é \n\ttext"
    assert "Mine" in list_prompts(folder)


def test_a_prompt_is_replaced_only_when_that_is_asked_for(folder: Path) -> None:
    before = read_prompt(folder, "QA")
    with pytest.raises(InvalidInputError, match="There is a prompt 'QA' already"):
        save_prompt(folder, "QA", "new", replace=False)
    assert read_prompt(folder, "QA") == before
    save_prompt(folder, "QA", "new", replace=True)
    assert read_prompt(folder, "QA") == "new"


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "con", "x\n", "é", "x" * 300])
def test_no_prompt_is_saved_or_deleted_by_a_name_that_is_none(name: str, folder: Path) -> None:
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(InvalidNameError):
        save_prompt(folder, name, "text", replace=True)
    with pytest.raises(InvalidNameError):
        delete_prompt(folder, name)
    assert sorted(folder.parent.rglob("*")) == before


def test_a_prompt_that_is_too_long_is_not_saved(folder: Path) -> None:
    with pytest.raises(InvalidInputError, match="more than 200,000"):
        save_prompt(folder, "Long", "x" * (MAX_PROMPT_CHARS + 1), replace=False)
    assert "Long" not in list_prompts(folder)


def test_a_prompt_is_deleted(folder: Path) -> None:
    delete_prompt(folder, "QA")
    assert list_prompts(folder) == ["alpaca", "Zebra"]
    with pytest.raises(NotFoundError):
        delete_prompt(folder, "QA")


def test_a_folder_that_is_none_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "prompts").write_text("a file")
    with pytest.raises(StorageError, match="cannot be written"):
        save_prompt(tmp_path / "prompts", "Mine", "text", replace=False)
