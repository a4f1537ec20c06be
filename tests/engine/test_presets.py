"""Presets: what is shipped, what is refused, and whose counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.engine.params import SamplingParams, knobs
from modules.engine.presets import (
    delete_preset,
    in_presets,
    list_presets,
    load_preset,
    save_preset,
)
from modules.errors import InvalidNameError, NotFoundError, SettingsError, StorageError
from modules.paths import Paths
from modules.settings import ROOT

SHIPPED = sorted(path.stem for path in (ROOT / "presets").glob("*.yaml"))
HOT = SamplingParams.neutral(temperature=1.5)


def folders(root: Path, own: Path) -> Paths:
    return Paths(root=root, models=own, prompts=own, user_data=own)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """An installation that ships one preset."""
    made = folders(tmp_path, tmp_path / "user_data")
    put(made, "Shipped", "# For tests.\ntemperature: 0.5\n")
    return made


def put(paths: Paths, name: str, text: str) -> None:
    paths.presets.mkdir(exist_ok=True)
    (paths.presets / f"{name}.yaml").write_text(text)


def changed(params: SamplingParams) -> dict[str, object]:
    return {n: getattr(params, n) for n, k in knobs().items() if getattr(params, n) != k.neutral}


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_preset_loads_and_changes_something(name: str, tmp_path: Path) -> None:
    assert changed(load_preset(folders(ROOT, tmp_path), name))


def test_every_shipped_preset_says_what_it_is_for(tmp_path: Path) -> None:
    listed = list_presets(folders(ROOT, tmp_path))
    assert [preset.name for preset in listed][:3] == ["Balanced", "Precise", "Creative"]
    assert [preset.name for preset in listed if not preset.about] == []


def test_the_default_is_a_preset_too(tmp_path: Path) -> None:
    assert load_preset(folders(ROOT, tmp_path), "simple-1") == SamplingParams()


def test_what_is_saved_is_loaded_again_without_length_stop_and_seed(paths: Paths) -> None:
    params = SamplingParams(top_k=7, do_sample=False, stop=("x",), seed=5, max_new_tokens=9)
    save_preset(paths, "Mine", params)
    neutral = {name: knobs()[name].neutral for name in set(knobs()) - set(in_presets())}
    assert load_preset(paths, "Mine") == params.replace(**neutral)


def test_a_saved_file_has_only_what_differs(paths: Paths) -> None:
    save_preset(paths, "Mine", HOT)
    assert (paths.own_presets / "Mine.yaml").read_text() == "temperature: 1.5\n"


def test_neutral_values_are_a_preset(paths: Paths) -> None:
    save_preset(paths, "Plain", SamplingParams.neutral())
    assert load_preset(paths, "Plain") == SamplingParams.neutral()


def test_ones_own_counts_until_it_is_deleted(paths: Paths) -> None:
    save_preset(paths, "Shipped", HOT)
    assert load_preset(paths, "Shipped") == HOT
    assert [(p.own, p.shipped) for p in list_presets(paths)] == [(True, True)]
    delete_preset(paths, "Shipped")
    assert load_preset(paths, "Shipped").temperature == 0.5


def test_a_shipped_one_is_never_deleted(paths: Paths) -> None:
    with pytest.raises(NotFoundError, match="no preset 'Shipped'"):
        delete_preset(paths, "Shipped")
    assert load_preset(paths, "Shipped").temperature == 0.5


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("temprature: 1", "unknown key 'temprature'. Did you mean temperature?"),
        ("max_new_tokens: 5", "unknown key 'max_new_tokens'"),
        ("temperature: 99", "temperature cannot be 99. Use 0 to 5."),
        ("temperature: hot", "temperature cannot be hot"),
        ("temperature: .nan", "temperature"),
        ("top_k: 1.5", "whole number"),
        ("top_k:", "no plain value"),
        ("top_p: [[0.5]]", "no plain value"),
        (f"do_sample: 0x{'f' * 6000}", "no plain value"),
        ("5: 1", "unknown key '5'"),
        ("? [a]\n: 1", "not valid YAML"),
        ("- temperature", "not a list of settings"),
        ("temperature: [", "not valid YAML"),
        ("!!python/object/apply:os.getcwd []", "not valid YAML"),
        ("#" * 70_000, "larger than 64 KB"),
    ],
)
def test_a_file_that_does_not_fit_is_named_with_the_reason(
    text: str, told: str, paths: Paths
) -> None:
    put(paths, "Odd", text)
    with pytest.raises(SettingsError) as caught:
        load_preset(paths, "Odd")
    assert "Odd.yaml" in caught.value.message
    assert told in str(caught.value)


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "a\\b", ".hidden", "x\0", "x" * 300])
def test_a_hostile_name_reaches_no_file(name: str, paths: Paths) -> None:
    for act in (load_preset, delete_preset):
        with pytest.raises(InvalidNameError):
            act(paths, name)
    with pytest.raises(InvalidNameError):
        save_preset(paths, name, HOT)


def test_a_link_out_of_the_folder_is_not_listed(paths: Paths, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.yaml").write_text("temperature: 1.5")
    (paths.presets / "Link.yaml").symlink_to(tmp_path / "elsewhere.yaml")
    assert [preset.name for preset in list_presets(paths)] == ["Shipped"]


def test_a_preset_that_is_not_there_is_said(paths: Paths) -> None:
    with pytest.raises(NotFoundError, match="no preset 'Gone'"):
        load_preset(paths, "Gone")


def test_a_folder_that_cannot_be_made_is_said(paths: Paths) -> None:
    paths.user_data.write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        save_preset(paths, "Mine", HOT)
