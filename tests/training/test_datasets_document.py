"""The examples of docs/datasets.md are read as it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from modules.training.config import DatasetSource, TrainingConfig
from modules.training.config_yaml import from_mapping
from modules.training.dataset import DataFolders, prepare
from modules.training.formats import read_format
from tests.training.bases import byte_level_base

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "datasets.md").read_text("utf-8")


def examples(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", DOCUMENT, re.DOTALL)


@pytest.mark.parametrize("rows", examples("json"))
def test_rows_of_the_document_are_learnt_from(rows: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(rows)
    base = byte_level_base(tmp_path / "base")
    config = TrainingConfig(datasets=(DatasetSource("rows.jsonl"),))
    prepared = prepare(config, base, DataFolders(tmp_path, tmp_path, ROOT))
    assert len(prepared.train) == len(rows.splitlines())


@pytest.mark.parametrize("config", examples("yaml"))
def test_configs_of_the_document_are_understood(config: str) -> None:
    assert from_mapping(yaml.safe_load(config)).datasets


def test_the_format_of_the_document_is_the_one_that_comes_with_lantern() -> None:
    (shown,) = examples("text")
    folder = ROOT / "training" / "formats"
    assert (folder / "alpaca-chatbot.json").read_text() == shown
    assert read_format("alpaca-chatbot", [folder])


def test_every_kind_of_finding_is_explained() -> None:
    sources = (ROOT / "modules" / "training").glob("*.py")
    code = "\n".join(file.read_text("utf-8") for file in sources)
    patterns = (
        r"Problem\([^()]*?(?:number|line_num), \"([A-Za-z ]+)\"",
        r"_RowError\(\"([A-Za-z ]+)\"",
        r"_problem\(row, \"([a-z ]+)\"",
        r"self\.add\(\"([a-z ]+)\"",
    )
    kinds = {kind for pattern in patterns for kind in re.findall(pattern, code)}
    assert {"nothing learnt", "no CSV", "duplicate", "role", "column"} <= kinds
    assert [kind for kind in kinds if f"`{kind}`" not in DOCUMENT] == []
