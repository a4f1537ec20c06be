"""Where paths of a config lead, and how rows of one file are told apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modules.chat.messages import Message
from modules.errors import DatasetError
from modules.training.config import DatasetSource
from modules.training.rows import Problem
from modules.training.sources import DataFolders, Item, file_hash, read_source, source_files


@pytest.fixture
def folders(tmp_path: Path) -> DataFolders:
    found = DataFolders(tmp_path / "configs", tmp_path / "datasets", tmp_path / "root")
    for folder in (tmp_path / "configs", found.datasets, found.root):
        folder.mkdir()
    return found


def read(rows: list[Any], folders: DataFolders, **about: Any) -> list[Item | Problem]:
    file = folders.datasets / "rows.json"
    file.write_text(json.dumps(rows))
    return list(read_source(DatasetSource("rows.json", **about), file, folders))


def said(item: Item | Problem) -> tuple[Message, ...]:
    assert isinstance(item, Item)
    return item.example.messages


PAIR = (Message("user", "Hi"), Message("assistant", "Ho"))


def test_a_path_is_looked_for_beside_the_config_first(folders: DataFolders) -> None:
    for folder in (folders.root, folders.datasets, folders.config):
        assert folder is not None
        (folder / "a.json").write_text("[]")
        assert folders.find("a.json") == folder / "a.json"


def test_a_whole_path_is_taken_as_it_is(folders: DataFolders, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Text.")
    assert source_files(DatasetSource(str(tmp_path / "a.txt")), folders) == [tmp_path / "a.txt"]


@pytest.mark.parametrize("path", ["none.json", "a\0b", "n" * 4_000])
def test_a_path_that_leads_nowhere_is_told(folders: DataFolders, path: str) -> None:
    with pytest.raises(DatasetError):
        folders.find(path)


def test_rows_of_one_file_may_lack_what_is_optional(folders: DataFolders) -> None:
    rows = [
        {"instruction": "Hi", "input": "", "output": "Ho"},
        {"instruction": "Hi", "output": "Ho"},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]},
    ]
    assert [said(item) for item in read(rows, folders)] == [PAIR] * 3


def test_a_first_row_that_is_bad_costs_itself_alone(folders: DataFolders) -> None:
    bad, good = read([{"a": 1}, {"instruction": "Hi", "output": "Ho"}], folders)
    assert isinstance(bad, Problem)
    assert (bad.file, bad.number, bad.kind) == ("rows.json", 1, "columns")
    assert said(good) == PAIR


def test_columns_are_mapped_as_told(folders: DataFolders) -> None:
    columns = {"prompt": "q", "response": "a", "system": "s"}
    with_system, without = read(
        [{"q": "Hi", "a": "Ho", "s": "Be."}, {"q": "Hi", "a": "Ho"}], folders, columns=columns
    )
    assert said(with_system) == (Message("system", "Be."), *PAIR)
    assert said(without) == PAIR


@pytest.mark.parametrize("columns", [{"promt": "q"}, {"prompt": "q"}, {"input": "q"}])
def test_a_mapping_that_says_too_little_is_refused(
    folders: DataFolders, columns: dict[str, str]
) -> None:
    with pytest.raises(DatasetError, match="response"):
        read([{"q": "Hi"}], folders, columns=columns)


def test_a_format_file_beside_the_config_is_used(folders: DataFolders) -> None:
    assert folders.config is not None
    (folders.config / "mine.json").write_text('{"q,a": "%q% -> %a%"}')
    (item,) = read([{"q": "Hi", "a": "Ho"}], folders, format="mine")
    assert isinstance(item, Item) and item.marked is not None
    assert item.marked.text == "Hi -> Ho"


def test_files_of_text_are_raw_and_text_in_a_table_is_a_row(folders: DataFolders) -> None:
    file = folders.datasets / "a.md"
    file.write_text("A story.")
    (whole,) = read_source(DatasetSource("a.md"), file, folders)
    (row,) = read([{"text": "A story."}], folders)
    assert isinstance(whole, Item) and whole.raw
    assert isinstance(row, Item) and not row.raw


def test_a_hash_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_hash(tmp_path / "a").startswith("ba7816bf8f01cfea")
