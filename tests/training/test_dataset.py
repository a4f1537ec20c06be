"""What a run trains on: masked, cut, mixed, split, and every row accounted for."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from modules.errors import DatasetError
from modules.training.config import DatasetSource, TrainingConfig
from modules.training.dataset import DataFolders, Prepared, batching_waste, prepare
from modules.training.masking import Masked
from modules.training.stored import StoredRows
from modules.training.tokenizer import FileTokenizer
from tests.training.bases import byte_level_base, llama_base

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_level_base(tmp_path_factory.mktemp("base"))


def pairs(count: int, start: int = 0) -> list[dict[str, str]]:
    numbers = range(start, start + count)
    return [{"instruction": f"Question {i}?", "output": f"Answer {i}."} for i in numbers]


def write(folder: Path, name: str, rows: list[dict[str, Any]] | str) -> DatasetSource:
    text = rows if isinstance(rows, str) else "\n".join(map(json.dumps, rows))
    (folder / name).write_text(text)
    return DatasetSource(name)


def run(folder: Path, base: Path, *sources: DatasetSource, **settings: Any) -> Prepared:
    config = TrainingConfig(datasets=sources, **settings)
    return prepare(config, base, DataFolders(folder, folder / "none", ROOT))


def learnt(base: Path, row: Masked) -> str:
    """The names of the tokens that are learnt, as text."""
    tokenizer = FileTokenizer(base)
    names = [tokenizer.name_of(i) for i, flag in zip(row.ids, row.learnt, strict=True) if flag]
    return "".join(names).replace("Ġ", " ").replace("▁", " ")


def test_replies_are_learnt_with_their_end_and_nothing_else(base: Path, tmp_path: Path) -> None:
    prepared = run(tmp_path, base, write(tmp_path, "a.jsonl", pairs(2)))
    assert [learnt(base, row) for row in prepared.train] == [
        "Answer 0.<|im_end|>",
        "Answer 1.<|im_end|>",
    ]
    assert prepared.places == ["a.jsonl, row 1", "a.jsonl, row 2"]
    assert prepared.real_tokens == sum(len(row.ids) for row in prepared.train)
    assert prepared.learnt_tokens == sum(sum(row.learnt) for row in prepared.train)


def test_everything_is_learnt_where_that_is_wanted(base: Path, tmp_path: Path) -> None:
    prepared = run(tmp_path, base, write(tmp_path, "a.jsonl", pairs(1)), learn="everything")
    assert all(prepared.train[0].learnt)


def test_text_in_a_table_begins_and_ends_as_the_model_knows_it(tmp_path: Path) -> None:
    base = llama_base(tmp_path / "base")
    source = write(tmp_path, "a.jsonl", [{"text": "One text."}, {"text": "<s>Two.</s>"}])
    first, second = run(tmp_path, base, source).train
    for row in (first, second):
        assert row.ids[0] == 1 and row.ids[-1] == 2
        assert row.ids.count(1) == row.ids.count(2) == 1
    (plain,) = run(tmp_path, base, write(tmp_path, "b.txt", "One text."), add_eos=False).train
    assert plain.ids == first.ids[:-1]


def test_the_reply_of_a_format_file_is_learnt_with_the_end(base: Path, tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", pairs(1))
    prepared = run(tmp_path, base, DatasetSource("a.jsonl", format="alpaca"))
    assert learnt(base, prepared.train[0]) == "Answer 0.<|im_end|>"


def test_a_row_too_long_loses_its_end_or_is_left_out(base: Path, tmp_path: Path) -> None:
    rows = [*pairs(2), {"instruction": "Go on.", "output": "on and " * 100}]
    source = write(tmp_path, "a.jsonl", rows)
    cut = run(tmp_path, base, source, cutoff_len=64, overlap_len=0)
    assert (len(cut.train), cut.longest, cut.lint.count("truncated")) == (3, 64, 1)
    dropped = run(tmp_path, base, source, cutoff_len=64, overlap_len=0, overlong="drop")
    assert (len(dropped.train), dropped.lint.count("too long")) == (2, 1)


def test_a_row_whose_reply_is_cut_away_is_left_out_and_told(base: Path, tmp_path: Path) -> None:
    rows = [*pairs(1), {"instruction": "on and " * 100, "output": "Stop."}]
    prepared = run(tmp_path, base, write(tmp_path, "a.jsonl", rows), cutoff_len=64, overlap_len=0)
    assert len(prepared.train) == 1
    assert prepared.lint.count("nothing learnt") == 1
    assert prepared.lint.count("truncated") == 0


def test_bad_rows_are_named_and_the_others_kept(base: Path, tmp_path: Path) -> None:
    lines = [*map(json.dumps, pairs(2)), "{broken", '{"instruction": "A", "output": ""}']
    prepared = run(tmp_path, base, write(tmp_path, "a.jsonl", "\n".join(lines)))
    assert len(prepared.train) == 2
    told = " ".join(row for finding in prepared.lint.findings for row in finding.rows)
    assert "a.jsonl, row 3: " in told and "a.jsonl, row 4: " in told


def test_weights_say_how_often_rows_are_seen(base: Path, tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", pairs(10))
    write(tmp_path, "b.jsonl", pairs(10, start=100))
    sources = DatasetSource("a.jsonl", weight=2.5), DatasetSource("b.jsonl", weight=0.3)
    prepared = run(tmp_path, base, *sources)
    seen = Counter(prepared.places)
    a = [count for place, count in seen.items() if place.startswith("a")]
    b = [count for place, count in seen.items() if place.startswith("b")]
    assert sorted(a) == [2] * 5 + [3] * 5
    assert b == [1] * 3
    assert prepared.lint.count("duplicate") == 0, "a row that is seen twice on purpose is none"


def test_sets_are_spread_evenly_through_an_epoch(base: Path, tmp_path: Path) -> None:
    sources = write(tmp_path, "a.jsonl", pairs(20)), write(tmp_path, "b.jsonl", pairs(10, 50))
    places = run(tmp_path, base, *sources).places
    for start in range(0, 30, 3):
        assert Counter(place[0] for place in places[start : start + 3]) == {"a": 2, "b": 1}


def test_a_seed_gives_the_same_rows_again(base: Path, tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", pairs(40))
    source = DatasetSource("a.jsonl", weight=0.5)
    first, again, other = (
        run(tmp_path, base, source, seed=seed, eval_split=0.2) for seed in (1, 1, 2)
    )
    assert list(first.train) == list(again.train)
    assert list(first.evaluation) == list(again.evaluation)
    assert first.places != other.places


def test_a_share_is_kept_apart_and_not_trained_on(base: Path, tmp_path: Path) -> None:
    prepared = run(tmp_path, base, write(tmp_path, "a.jsonl", pairs(20)), eval_split=0.25)
    train, held = set(map(_ids, prepared.train)), set(map(_ids, prepared.evaluation))
    assert (len(train), len(held)) == (15, 5)
    assert not train & held


def _ids(row: Masked) -> tuple[int, ...]:
    return row.ids


def test_of_a_text_the_end_is_kept_apart(base: Path, tmp_path: Path) -> None:
    story = "".join(f"Line {i} of it.\n" for i in range(200))
    source = write(tmp_path, "a.txt", story)
    settings = {"cutoff_len": 64, "overlap_len": 0, "newline_favor_len": 0}
    prepared = run(tmp_path, base, source, eval_split=0.1, **settings)
    whole = run(tmp_path, base, source, **settings)
    assert [*prepared.train, *prepared.evaluation] == list(whole.train)
    assert len(prepared.evaluation) == round(0.1 * len(whole.train))


def test_rows_to_evaluate_on_that_are_trained_on_are_told(base: Path, tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", pairs(5))
    write(tmp_path, "b.jsonl", pairs(3, start=4))
    prepared = run(
        tmp_path, base, DatasetSource("a.jsonl"), eval_datasets=(DatasetSource("b.jsonl"),)
    )
    assert (len(prepared.train), len(prepared.evaluation)) == (5, 3)
    assert prepared.lint.count("leaked") == 1
    assert prepared.lint.examples == 5


def test_files_are_told_with_their_hash_and_rows(base: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    write(tmp_path / "set", "a.jsonl", pairs(2))
    write(tmp_path / "set", "b.jsonl", pairs(3, start=2))
    prepared = run(tmp_path, base, DatasetSource("set"))
    assert [(file.name, file.rows) for file in prepared.sources] == [("a.jsonl", 2), ("b.jsonl", 3)]
    assert all(len(file.sha256) == 64 for file in prepared.sources)


def test_a_set_of_which_nothing_can_be_learnt_says_why(base: Path, tmp_path: Path) -> None:
    source = write(tmp_path, "a.jsonl", [{"alpha": 1, "beta": 2}] * 3)
    with pytest.raises(DatasetError, match=r"a\.jsonl, row 1: .*alpha, beta"):
        run(tmp_path, base, source)


def test_a_template_that_hides_replies_is_told_by_row(base: Path, tmp_path: Path) -> None:
    hiding = byte_level_base(tmp_path / "base")
    (hiding / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(DatasetError, match=r"a\.jsonl, row 1: The chat template"):
        run(tmp_path, hiding, write(tmp_path, "a.jsonl", pairs(2)))


def test_without_datasets_there_is_nothing_to_train_on(base: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no dataset"):
        run(tmp_path, base)


def test_one_row_cannot_be_split(base: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="too few"):
        run(tmp_path, base, write(tmp_path, "a.jsonl", pairs(1)), eval_split=0.5)


def test_progress_grows_to_the_end(base: Path, tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    config = TrainingConfig(datasets=(write(tmp_path, "a.jsonl", pairs(2_500)),))
    folders = DataFolders(tmp_path, tmp_path, ROOT)
    prepare(config, base, folders, lambda stage, share: told.append((stage, share)))
    shares = [share for _, share in told]
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert any("2,000 rows" in stage for stage, _ in told)


def test_the_waste_of_each_batching_is_told() -> None:
    config = TrainingConfig(micro_batch_size=2)
    shares = batching_waste([10, 100, 10, 100], config)
    assert shares["packed"].share == shares["sorted"].share == 1.0
    assert shares["padded"].share == 220 / 400


def test_rows_are_held_in_a_store_and_not_as_objects(base: Path, tmp_path: Path) -> None:
    prepared = run(tmp_path, base, write(tmp_path, "a.jsonl", pairs(1)))
    assert isinstance(prepared.train, StoredRows)
    assert prepared.train.lengths == [len(prepared.train[0].ids)]
