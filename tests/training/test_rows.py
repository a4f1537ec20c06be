"""Dataset files are read row by row, and what is wrong is told by its place."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from modules.errors import DatasetError
from modules.training.rows import Problem, Row, dataset_files, read_rows

ALPACA = {"instruction": "Say hi.", "input": "", "output": "Hi."}


def written(folder: Path, name: str, content: str | bytes) -> Path:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def rows(file: Path) -> list[Any]:
    return [r.fields if isinstance(r, Row) else (r.number, r.kind) for r in read_rows(file)]


def test_a_json_list_is_read(tmp_path: Path) -> None:
    assert rows(written(tmp_path, "a.json", json.dumps([ALPACA, ALPACA]))) == [ALPACA, ALPACA]


@pytest.mark.parametrize("key", ["data", "train", "rows", "examples"])
def test_rows_below_a_key_are_read(tmp_path: Path, key: str) -> None:
    assert rows(written(tmp_path, "a.json", json.dumps({key: [ALPACA]}))) == [ALPACA]


def test_a_lone_conversation_is_one_row(tmp_path: Path) -> None:
    lone = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}
    assert rows(written(tmp_path, "a.json", json.dumps(lone))) == [lone]


def test_json_lines_under_the_name_of_json_are_read(tmp_path: Path) -> None:
    lines = "\n".join([json.dumps(ALPACA)] * 3)
    assert rows(written(tmp_path, "a.json", lines)) == [ALPACA] * 3


def test_a_bad_line_costs_itself_alone(tmp_path: Path) -> None:
    text = '{"a": 1}\n\n{"a": \n[1]\n{"a": 2}\n'
    found = rows(written(tmp_path, "a.jsonl", text))
    assert found == [{"a": 1}, (3, "no JSON"), (4, "no object"), {"a": 2}]


def test_a_line_too_long_is_skipped_and_the_next_has_its_number(tmp_path: Path) -> None:
    text = '{"a": 1}\n"' + "x" * (33 * 2**20) + '"\n{"a": 2}\n'
    assert rows(written(tmp_path, "a.jsonl", text)) == [{"a": 1}, (2, "too long"), {"a": 2}]


def test_csv_has_heads_and_quoted_line_breaks(tmp_path: Path) -> None:
    file = written(tmp_path, "a.csv", 'prompt,response\n"a\nb",c\nonly one\nd,e\n')
    assert rows(file) == [
        {"prompt": "a\nb", "response": "c"},
        (4, "fields"),
        {"prompt": "d", "response": "e"},
    ]


def test_tabs_part_the_fields_of_tsv(tmp_path: Path) -> None:
    assert rows(written(tmp_path, "a.tsv", "a\tb\n1\t2,3\n")) == [{"a": "1", "b": "2,3"}]


def test_parquet_is_read(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    arrow = pytest.importorskip("pyarrow")
    parquet.write_table(arrow.Table.from_pylist([ALPACA, ALPACA]), tmp_path / "a.parquet")
    assert rows(tmp_path / "a.parquet") == [ALPACA, ALPACA]


def test_a_text_file_is_one_row(tmp_path: Path) -> None:
    assert rows(written(tmp_path, "a.txt", "\ufeffOnce upon a time.")) == [
        {"text": "Once upon a time."}
    ]


def test_a_folder_that_cannot_be_looked_through_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(Path, "rglob", broken)
    with pytest.raises(DatasetError, match="cannot be looked through: Invalid argument"):
        dataset_files(tmp_path)


def test_a_folder_is_all_its_files_by_name(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.txt", "a.txt", "deep/c.json", "picture.png"):
        written(tmp_path, name, "x")
    assert [f.name for f in dataset_files(tmp_path)] == ["a.txt", "b.txt", "c.json"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", "", "empty"),
        ("a.json", '[{"a": 1},\n{"a" 2}]', "line 2, column 6"),
        ("a.json", '"text"', "no rows"),
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.json", '[{"a": 1},\n{"a": 2}', "row 2, line 2: a comma"),
        ("a.json", '[{"a": 1}] []', "goes on"),
        ("a.json", '[{"a": 1}, ]', "in row 2"),
        ("a.json", '[{"a": ' + "9" * 5_000 + "}]", "digits in row 1"),
        ("a.json", b'[{"a": 1},\n{"a": "\xff"}]', "not UTF-8 in line 2, byte 18"),
        ("a.txt", b"a\n\xff", "not UTF-8 in line 2"),
        ("a.parquet", "PAR1 not really", "no Parquet"),
    ],
)
def test_what_cannot_be_read_at_all_is_named(
    tmp_path: Path, name: str, content: str | bytes, told: str
) -> None:
    with pytest.raises(DatasetError, match=told) as raised:
        list(read_rows(written(tmp_path, name, content)))
    assert name in raised.value.message


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n{"a": 3}'), ("a.csv", b"a\n1\n\xff\n3")],
)
def test_what_is_not_utf8_costs_its_own_row_alone(
    tmp_path: Path, name: str, content: bytes
) -> None:
    first, bad, last = read_rows(written(tmp_path, name, content))
    assert isinstance(first, Row) and isinstance(last, Row)
    assert isinstance(bad, Problem) and "UTF-8" in bad.sentence


def test_a_parquet_file_that_is_damaged_within_names_the_last_good_row(tmp_path: Path) -> None:
    rows = [{"text": f"Row {i} of many."} for i in range(3_000)]
    file = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file, row_group_size=1_000)
    content = bytearray(file.read_bytes())
    at = len(content) // 2
    content[at : at + 3_000] = bytes(3_000)
    file.write_bytes(content)
    with pytest.raises(DatasetError, match=r"a\.parquet is no Parquet behind row 1,000: \w+"):
        list(read_rows(file))


def test_a_table_without_a_head_has_no_rows(tmp_path: Path) -> None:
    assert list(read_rows(written(tmp_path, "a.csv", "\ufeff"))) == []


@pytest.mark.parametrize("name", ["none.json", "a.exe", "folder"])
def test_what_is_no_dataset_is_refused_with_a_remedy(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    written(tmp_path, "a.exe", "MZ")
    with pytest.raises(DatasetError) as raised:
        dataset_files(tmp_path / name)
    assert raised.value.remedy


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.tsv", "a.parquet", "a.txt"])
def test_fifty_damaged_copies_of_each_kind_give_sentences_and_no_traceback(
    tmp_path: Path, name: str
) -> None:
    chance = random.Random(name)
    whole = ("\n".join([json.dumps(ALPACA)] * 20) + '\na,b\n"c,d\n').encode()
    for _ in range(50):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        file = written(tmp_path, name, bytes(damaged[: chance.randint(1, len(damaged))]))
        try:
            found = list(read_rows(file))
        except DatasetError as error:
            assert name in error.message
        else:
            assert all(isinstance(f, Row) or (f.file == name and f.number > 0) for f in found)


def test_a_problem_names_file_and_row(tmp_path: Path) -> None:
    (problem,) = read_rows(written(tmp_path, "a.jsonl", "nonsense"))
    assert isinstance(problem, Problem)
    assert (problem.file, problem.number) == ("a.jsonl", 1)
