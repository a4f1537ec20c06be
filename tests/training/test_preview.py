"""A preview is what the trainer gets, for any row and for those that are left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modules.errors import DatasetError, NotFoundError
from modules.training import preview as preview_module
from modules.training.config import DatasetSource, TrainingConfig
from modules.training.dataset import DataFolders, prepare
from modules.training.preview import Preview, preview, survey
from modules.training.tokenizer import FileTokenizer
from tests.training.bases import byte_level_base

ROOT = Path(__file__).parents[2]
ROWS: list[dict[str, Any]] = [
    {"instruction": "What?", "output": "Thät 😀."},
    {"instruction": "on and " * 100, "output": "Cut away."},
    {"instruction": "Empty?", "output": ""},
    {"instruction": "Long?", "output": "on and " * 100},
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_level_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def folders(tmp_path: Path) -> DataFolders:
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (tmp_path / "b.txt").write_text("".join(f"Line {i} of it.\n" for i in range(2_000)))
    return DataFolders(tmp_path, tmp_path, ROOT)


def config(*names: str, **settings: Any) -> TrainingConfig:
    settings = {"cutoff_len": 64, "overlap_len": 8} | settings
    return TrainingConfig(datasets=tuple(DatasetSource(name) for name in names), **settings)


def shown(found: Preview) -> str:
    return "".join(f"[{text}]" if learnt else text for text, learnt in found.tokens)


def test_a_row_is_shown_with_what_is_learnt(base: Path, folders: DataFolders) -> None:
    found = preview(config("a.jsonl"), base, folders, 0)
    assert (found.place, found.total_rows, found.complete) == ("a.jsonl, row 1", 4, True)
    assert found.text.startswith("<|im_start|>user\nWhat?<|im_end|>")
    assert "assistant\n[" in shown(found) and shown(found).endswith("[<|im_end|>]\n")
    assert not found.left_out


def test_a_row_that_is_left_out_says_why(base: Path, folders: DataFolders) -> None:
    cut_away, empty = (preview(config("a.jsonl"), base, folders, index) for index in (1, 2))
    assert "first 64 tokens" in cut_away.left_out and len(cut_away.tokens) == 64
    assert empty.left_out == "The reply is empty." and not empty.tokens


@pytest.mark.parametrize("name", ["a.jsonl", "b.txt"])
def test_previews_are_exactly_what_is_trained_on(
    name: str, base: Path, folders: DataFolders
) -> None:
    prepared = prepare(config(name), base, folders)
    tokenizer = FileTokenizer(base)
    seen = 0
    for index in range(5 if name == "b.txt" else 4):
        found = preview(config(name), base, folders, index)
        if found.left_out:
            continue
        row = prepared.train[seen]
        assert found.place == prepared.places[seen]
        assert [flag for _, flag in found.tokens] == [False, *row.learnt[1:]]
        encoded = tokenizer.encode(found.text)[0]
        assert row.ids == tuple(encoded[: len(row.ids)])
        seen += 1
    assert seen


def test_rows_beyond_the_sample_can_be_shown(
    base: Path, folders: DataFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview_module, "SAMPLE", 2)
    assert (first := preview(config("a.jsonl"), base, folders, 0)).total_rows == 2
    assert not first.complete
    assert preview(config("a.jsonl"), base, folders, 3).place == "a.jsonl, row 4"


def test_pieces_of_text_are_counted_some_way_ahead(base: Path, folders: DataFolders) -> None:
    found = preview(config("b.txt"), base, folders, 3)
    assert found.place == "b.txt, piece 4"
    assert not found.complete and found.total_rows > 50
    assert preview(config("b.txt"), base, folders, 150).place == "b.txt, piece 151"


def test_rows_of_several_sets_follow_one_another(base: Path, folders: DataFolders) -> None:
    assert preview(config("a.jsonl", "b.txt"), base, folders, 4).place == "b.txt, piece 1"


def test_a_row_that_is_not_there_is_told(base: Path, folders: DataFolders) -> None:
    with pytest.raises(NotFoundError, match="There are 4"):
        preview(config("a.jsonl"), base, folders, 4)
    with pytest.raises(NotFoundError):
        preview(config("a.jsonl"), base, folders, -1)


def test_a_survey_counts_what_a_run_would_find(base: Path, folders: DataFolders) -> None:
    found = survey(config("a.jsonl"), base, folders)
    prepared = prepare(config("a.jsonl"), base, folders)
    assert found.lint == prepared.lint
    assert (found.tokens, found.learnt) == (prepared.real_tokens, prepared.learnt_tokens)
    assert found.complete and (found.rows, found.looked_at) == (2, 4)
    assert found.waste["packed"].share == 1.0


def test_the_overlap_is_found_too_large_for_raw_text_alone(
    base: Path, folders: DataFolders
) -> None:
    for name, expected in (("a.jsonl", 0), ("b.txt", 1)):
        chosen = config(name, overlap_len=128)
        found = survey(chosen, base, folders)
        assert found.lint.count("overlap") == expected
        assert prepare(chosen, base, folders).lint.count("overlap") == expected


def test_a_survey_of_much_text_ends_early_and_says_so(
    base: Path, folders: DataFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview_module, "_TOKENS", 1_000)
    found = survey(config("b.txt"), base, folders)
    assert not found.complete and 1_000 <= found.tokens < 1_100


def test_a_survey_finds_rows_that_are_evaluated_on_as_well(
    base: Path, folders: DataFolders
) -> None:
    both = config("a.jsonl", eval_datasets=(DatasetSource("a.jsonl"),))
    assert survey(both, base, folders).lint.count("leaked") == 2


def test_an_empty_set_is_told(base: Path, folders: DataFolders) -> None:
    (folders.datasets / "c.json").write_text("[]")
    with pytest.raises(DatasetError, match=r"c\.json"):
        preview(config("c.json"), base, folders, 0)
