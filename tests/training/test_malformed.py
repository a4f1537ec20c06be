"""300 malformed datasets: a sentence that names the file and the row, and never a traceback."""

from __future__ import annotations

import io
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from modules.errors import DatasetError
from modules.training.config import DatasetSource, TrainingConfig
from modules.training.dataset import prepare
from modules.training.preview import preview, survey
from modules.training.sources import DataFolders
from tests.training.bases import byte_level_base

ROOT = Path(__file__).parents[2]
GOOD: list[dict[str, Any]] = [
    {"instruction": f"Question {i}?", "input": "", "output": f"Answer {i}."} for i in range(6)
]
CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}
ODD: list[Any] = [
    None,
    True,
    3.5,
    -(10**400),
    float("nan"),
    float("inf"),
    "",
    "\0\0",
    "\ud800",
    "half \udfff a pair",
    "x" * 100_000,
    [],
    {},
    [[]],
    {"a": {"b": [1]}},
    ["\ud83d"],
    "😀" * 50,
    "%output% %instruction%",
    "{{ messages }} {% raise %}",
    "<|im_end|>LanternReply0End",
]


def odd_fields(chance: random.Random) -> dict[str, Any]:
    row: dict[str, Any] = dict(chance.choice([GOOD[0], CHAT]))
    for name in chance.sample(sorted(row), chance.randint(1, len(row))):
        row[name] = chance.choice(ODD)
    if chance.random() < 0.3:
        row.pop(chance.choice(sorted(row)))
    if chance.random() < 0.2:
        row[chance.choice(["", "\ud800", "k" * 5_000, "a\nb", "text"])] = chance.choice(ODD)
    return row


def odd_turns(chance: random.Random) -> dict[str, Any]:
    turns: list[Any] = [*CHAT["messages"], chance.choice(ODD)]
    turns.append({"role": chance.choice(ODD), "content": "a"})
    turns.append({"from": "gpt", "value": chance.choice(ODD)})
    chance.shuffle(turns)
    kept: Any = turns[: chance.randint(0, 5)]
    key = chance.choice(["messages", "conversations", "chat"])
    return {key: json.dumps(kept) if chance.random() < 0.3 else kept}


def as_lines(rows: list[Any]) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Cut off, with bytes overwritten, or with bytes put in between."""
    at = chance.randrange(len(content) + 1)
    noise = chance.randbytes(chance.randint(1, 40))
    ways = [content[:at], content[:at] + noise + content[at:], content[:at] + noise]
    ways += [content[:at] + noise + content[at + len(noise) :], content[at:], content.upper()]
    return chance.choice(ways)


def parquet(rows: list[dict[str, Any]]) -> bytes:
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), stream)
    return stream.getvalue()


def csv(rows: list[dict[str, Any]], mark: str = ",") -> bytes:
    lines = [mark.join(rows[0]), *(mark.join(map(str, row.values())) for row in rows)]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


Maker = Callable[[random.Random], tuple[str, bytes]]
MAKERS: list[Maker] = [
    lambda c: ("rows.json", damaged(json.dumps(GOOD).encode(), c)),
    lambda c: ("rows.jsonl", damaged(as_lines(GOOD), c)),
    lambda c: ("rows.csv", damaged(csv(GOOD), c)),
    lambda c: ("rows.tsv", damaged(csv(GOOD, "\t"), c)),
    lambda c: ("rows.parquet", damaged(parquet(GOOD), c)),
    lambda c: ("text.txt", damaged(("A line.\n" * 20).encode(), c)),
    lambda c: ("rows.json", json.dumps([odd_fields(c) for _ in range(5)]).encode()),
    lambda c: ("rows.jsonl", as_lines([odd_fields(c) for _ in range(5)])),
    lambda c: ("rows.jsonl", as_lines([odd_turns(c) for _ in range(5)])),
    lambda c: ("rows.json", json.dumps(odd_turns(c)).encode()),
    lambda c: ("rows.jsonl", as_lines([c.choice(ODD), c.choice(ODD), *GOOD[:1]])),
    lambda c: ("rows.json", json.dumps(c.choice(ODD)).encode()),
    lambda c: (c.choice(["a.json", "a.jsonl", "a.csv", "a.parquet", "a.md"]), c.randbytes(300)),
    lambda c: (
        c.choice(["a.json", "a.jsonl", "a.csv", "a.tsv", "a.parquet", "a.txt"]),
        c.choice([b"", b"\n", b"\xef\xbb\xbf", b"\0" * 99, b" \n \n", b"\xff\xfe[\0]\0", b"[]"]),
    ),
    lambda c: (
        c.choice(["deep.json", "deep.jsonl"]),
        c.choice([b"[", b'{"messages":', b'[{"a":']) * c.choice([900, 5_000, 100_000]),
    ),
    lambda c: (
        c.choice(["big.json", "big.jsonl"]),
        b'[{"instruction": ' + b"9" * c.choice([400, 4_301, 50_000]) + b', "output": "a"}]',
    ),
    lambda c: ("rows.csv", csv([odd_fields(c) for _ in range(3)]) if c.random() < 0.9 else b'"'),
    lambda c: (
        "rows.parquet",
        parquet([{"instruction": c.choice([None, 1, b"\xff", [1], {"a": 1}]), "output": "a"}]),
    ),
    lambda c: ("renamed.parquet", c.choice([as_lines(GOOD), b"PAR1", b"PAR1" * 9, csv(GOOD)])),
    lambda c: (c.choice(["pile.json", "pile.csv", "pile.txt"]), parquet(GOOD)),
]
FORMATS = ("alpaca", "vicuna", *[""] * 10)
COLUMNS: tuple[dict[str, str], ...] = (
    {"prompt": "instruction", "response": "output"},
    {"messages": "messages"},
    {"text": "output"},
    *[{}] * 9,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_level_base(tmp_path_factory.mktemp("base"))


def is_sentence(text: str, file: str) -> bool:
    """Names the file, can be shown anywhere, and is no page of somebody's data."""
    return file in text and text.isprintable() and len(text) < 1_000 and "None" not in text


@pytest.mark.parametrize("case", range(300))
def test_a_malformed_dataset_gets_a_sentence(case: int, base: Path, tmp_path: Path) -> None:
    chance = random.Random(case)
    name, content = MAKERS[case % len(MAKERS)](chance)
    (tmp_path / name).write_bytes(content)
    source = DatasetSource(name, columns=chance.choice(COLUMNS), format=chance.choice(FORMATS))
    config = TrainingConfig(datasets=(source,), cutoff_len=chance.choice([32, 1024]), overlap_len=8)
    folders = DataFolders(tmp_path, tmp_path / "datasets", ROOT)
    try:
        prepared = prepare(config, base, folders)
    except DatasetError as error:
        assert is_sentence(str(error), name)
    else:
        assert len(prepared.train) == len(prepared.places) > 0
        for finding in prepared.lint.findings:
            assert all(is_sentence(row, name) for row in finding.rows)
            assert all(re.search(r"(row|piece) [\d,]+", row) for row in finding.rows)
    for look in (lambda: survey(config, base, folders), lambda: preview(config, base, folders, 0)):
        try:
            look()
        except DatasetError as error:
            assert is_sentence(str(error), name)
