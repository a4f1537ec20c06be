"""The models there are, and which one a name means."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.errors import InvalidNameError, ModelNotFoundError
from modules.loader.catalog import find_model, find_model_or_path, list_models
from tests.loader.folders import make_model


def test_models_are_listed_by_name_with_what_is_wrong(tmp_path: Path) -> None:
    make_model(tmp_path, "beta")
    make_model(tmp_path, "Alpha", config__json="{")
    make_model(tmp_path, ".Gamma.partial-1")
    (tmp_path / "README.md").write_text("one folder a model")
    listed = [(entry.name, entry.problem) for entry in list_models(tmp_path)]
    assert listed == [("Alpha", "Alpha/config.json is no valid JSON."), ("beta", "")]


def test_the_size_of_a_listed_model_counts_its_files(tmp_path: Path) -> None:
    model = make_model(tmp_path)
    size = sum(file.stat().st_size for file in model.iterdir())
    assert [entry.size_bytes for entry in list_models(tmp_path)] == [size]


def test_a_folder_with_an_impossible_name_is_listed_with_that_problem(tmp_path: Path) -> None:
    make_model(tmp_path, "con")
    assert "cannot be used as a name" in list_models(tmp_path)[0].problem


def test_no_models_directory_means_no_models(tmp_path: Path) -> None:
    assert list_models(tmp_path / "absent") == []


def test_a_model_is_found_by_name(tmp_path: Path) -> None:
    model = make_model(tmp_path, "Tiny model")
    assert find_model(tmp_path, "Tiny model") == model


@pytest.mark.parametrize(
    "asked", ["TheBloke_Llama-2-7B-chat-GPTQ", "thebloke_llama-2-7b-gptq", "Llama-2-7B"]
)
def test_an_unknown_name_brings_its_nearest_neighbour(tmp_path: Path, asked: str) -> None:
    make_model(tmp_path, "TheBloke_Llama-2-7B-GPTQ")
    make_model(tmp_path, "SmolLM2-135M-Instruct")
    with pytest.raises(ModelNotFoundError, match=r"Did you mean TheBloke_Llama-2-7B-GPTQ\?"):
        find_model(tmp_path, asked)


def test_a_name_like_no_other_brings_what_there_is(tmp_path: Path) -> None:
    make_model(tmp_path, "Tiny")
    with pytest.raises(ModelNotFoundError, match=r"There are: Tiny\."):
        find_model(tmp_path, "qwwwx")


def test_an_empty_models_directory_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"download-model\.py starter"):
        find_model(tmp_path, "Tiny")


@pytest.mark.parametrize(
    "name", ["../Tiny", "/etc", ".", "..", "", "a/b", "a\0b", "con", "x" * 300]
)
def test_a_hostile_name_finds_nothing(tmp_path: Path, name: str) -> None:
    make_model(tmp_path)
    with pytest.raises(InvalidNameError):
        find_model(tmp_path / "Tiny", name)


def test_the_command_line_may_give_a_path(tmp_path: Path) -> None:
    model = make_model(tmp_path / "elsewhere")
    assert find_model_or_path(tmp_path, f"{model}/") == model


def test_the_command_line_may_give_a_name(tmp_path: Path) -> None:
    model = make_model(tmp_path)
    assert find_model_or_path(tmp_path, "Tiny") == model


def test_a_path_that_leads_nowhere_is_said_to(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"There is no folder \./absent\."):
        find_model_or_path(tmp_path, "./absent")


@pytest.mark.parametrize("asked", ["TheBloke/Llama-2-7B-GPTQ", "TheBloke/Llama-2-7B-GPTQ:main"])
def test_the_command_line_may_give_a_name_as_the_hub_has_it(tmp_path: Path, asked: str) -> None:
    model = make_model(tmp_path, "TheBloke_Llama-2-7B-GPTQ")
    assert find_model_or_path(tmp_path, asked) == model


def test_a_branch_of_a_hub_is_a_folder_of_its_own(tmp_path: Path) -> None:
    model = make_model(tmp_path, "TheBloke_Llama-2-7B-GPTQ_gptq-8bit")
    assert find_model_or_path(tmp_path, "TheBloke/Llama-2-7B-GPTQ:gptq-8bit") == model


def test_a_folder_that_is_there_wins_over_a_name_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_model(tmp_path / "models", "owner_name")
    near = make_model(tmp_path / "owner", "name")
    assert find_model_or_path(tmp_path / "models", "owner/name") == near


def test_a_name_of_the_hub_that_is_not_there_brings_its_neighbour(tmp_path: Path) -> None:
    make_model(tmp_path, "TheBloke_Llama-2-7B-GPTQ")
    with pytest.raises(ModelNotFoundError, match=r"Did you mean TheBloke_Llama-2-7B-GPTQ\?"):
        find_model_or_path(tmp_path, "TheBloke/Llama-2-7B-chat-GPTQ")


def test_the_page_may_not_give_a_name_of_the_hub(tmp_path: Path) -> None:
    make_model(tmp_path, "owner_name")
    with pytest.raises(InvalidNameError):
        find_model(tmp_path, "owner/name")
