"""One description of a run: bounds, contradictions, YAML and sweeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.errors import InvalidInputError, SettingsError
from modules.training.config import GROUPS, SIMPLE, DatasetSource, TrainingConfig, training_knobs
from modules.training.config_yaml import as_yaml, expand, from_mapping, read_configs


def test_every_field_is_described_and_belongs_to_a_group() -> None:
    knobs = training_knobs()
    assert {knob.group for knob in knobs.values()} == set(GROUPS)
    assert all(knob.label and knob.help.endswith(".") for knob in knobs.values())
    assert set(SIMPLE) <= knobs.keys()


@pytest.mark.parametrize(
    ("field", "value"),
    [("lora_r", 0), ("learning_rate", 2.0), ("epochs", "three"), ("learn", "nothing")],
)
def test_a_value_out_of_bounds_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InvalidInputError, match=field):
        from_mapping({field: value})


@pytest.mark.parametrize(
    ("entries", "both"),
    [
        ({"eval_split": 0.1, "eval_datasets": ["a.json"]}, "eval_datasets"),
        ({"use_dora": True, "init_lora_weights": "pissa"}, "use_dora"),
        ({"sharding": "on", "load_in": "4bit"}, "sharding.*load_in"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    entries: dict[str, object], both: str
) -> None:
    with pytest.raises(InvalidInputError, match=both):
        from_mapping(entries)


@pytest.mark.parametrize("length", [16, 64, 128])
def test_a_short_length_is_no_affair_of_the_overlap_of_raw_text(length: int) -> None:
    config = from_mapping({"cutoff_len": length})
    assert config.overlap_len >= config.cutoff_len


def test_an_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(InvalidInputError, match=r"learning_rte.*learning_rate"):
        from_mapping({"learning_rte": 1e-4})


@pytest.mark.parametrize("dataset", [{"weight": 1}, {"path": "a", "wait": 1}, 3])
def test_a_dataset_that_is_not_understood_is_refused(dataset: object) -> None:
    with pytest.raises(InvalidInputError, match="datasets"):
        from_mapping({"datasets": [dataset]})


def test_yaml_gives_the_same_config_again_and_says_only_what_differs(tmp_path: Path) -> None:
    source = DatasetSource("rows.csv", weight=0.5, columns={"prompt": "q", "response": "a"})
    config = TrainingConfig(name="mine", base="llama", datasets=(source,), lora_r=8)
    file = tmp_path / "run.yaml"
    file.write_text(as_yaml(config))
    assert read_configs(file) == [config]
    assert set(file.read_text().split(":")[0].split()) == {"name"}
    assert "epochs" not in file.read_text()


def test_named_target_sets_are_written_out_once() -> None:
    config = TrainingConfig(target_modules=("q and v", "attention", "lm_head"))
    assert config.targets == ("q_proj", "v_proj", "k_proj", "o_proj", "lm_head")


def test_lists_of_numbers_make_one_run_for_each_combination() -> None:
    runs = expand({"name": "n", "lora_r": [8, 16], "learning_rate": [1e-4, 2e-4], "seed": 3})
    assert [(run["lora_r"], run["learning_rate"]) for run in runs] == [
        (8, 1e-4),
        (8, 2e-4),
        (16, 1e-4),
        (16, 2e-4),
    ]
    assert len({run["name"] for run in runs}) == 4
    assert all(from_mapping(run).seed == 3 for run in runs)


def test_a_sweep_of_too_many_runs_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="64"):
        expand({"seed": list(range(65))})


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text("lora_r: -3")
    with pytest.raises(SettingsError, match=r"broken\.yaml.*lora_r"):
        read_configs(file)
