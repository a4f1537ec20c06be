"""Weights are found under any of the names in the wild, and never guessed at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modules.errors import NotAModelError
from modules.loader.weight_files import find_weights
from tests.loader.folders import make_model, safetensors, write_tensors

CONSOLIDATED = "consolidated.safetensors"


def put(models: Path, *names: str) -> Path:
    """A folder with these weight files."""
    model = make_model(models, model__safetensors=None)
    for name in names:
        (model / name).write_bytes(safetensors())
    return model


def found(model: Path, layers: int = 0) -> list[str]:
    return [file.name for file in find_weights(model, layers)]


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "gptq_model-4bit-128g.safetensors",
        "llama-7b-4bit-128g.safetensors",
        "model-4bit.safetensors",
        "4bit.safetensors",
    ],
)
def test_a_single_file_is_taken_whatever_its_name(tmp_path: Path, name: str) -> None:
    assert found(put(tmp_path, name)) == [name]


@pytest.mark.parametrize("stem", ["model", "gptq_model-4bit-128g"])
def test_the_shards_of_an_index_are_the_weights(tmp_path: Path, stem: str) -> None:
    shards = [f"{stem}-00001-of-00002.safetensors", f"{stem}-00002-of-00002.safetensors"]
    model = put(tmp_path, *shards, CONSOLIDATED)
    index = f'{{"weight_map": {{"a": "{shards[0]}", "b": "{shards[1]}", "c": "{shards[0]}"}}}}'
    (model / f"{stem}.safetensors.index.json").write_text(index)
    assert found(model) == shards


def test_shards_are_known_without_an_index(tmp_path: Path) -> None:
    shards = ["x-00001-of-00002.safetensors", "x-00002-of-00002.safetensors"]
    assert found(put(tmp_path, *shards)) == shards


def test_shards_that_are_missing_are_named_without_an_index(tmp_path: Path) -> None:
    with pytest.raises(NotAModelError, match=r"lacks x-00002-of-00003\.safetensors, which belong"):
        found(put(tmp_path, "x-00001-of-00003.safetensors", "x-00003-of-00003.safetensors"))


def test_a_name_that_claims_a_million_shards_is_answered_at_once(tmp_path: Path) -> None:
    with pytest.raises(NotAModelError, match=r"lacks x-000002-of-999999\.safetensors, "):
        found(put(tmp_path, "x-000001-of-999999.safetensors"))


def test_missing_shards_of_an_index_are_named(tmp_path: Path) -> None:
    model = put(tmp_path, "model-1.safetensors")
    (model / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}'
    )
    with pytest.raises(NotAModelError, match=r"lacks model-2\.safetensors, which"):
        found(model)


@pytest.mark.parametrize("name", ["../other/model.safetensors", "/etc/passwd", 7, "weights.bin"])
def test_an_index_may_only_name_safetensors_in_its_folder(tmp_path: Path, name: Any) -> None:
    model = make_model(
        tmp_path,
        model__safetensors=None,
        model__safetensors__index__json={"weight_map": {"a": name}},
    )
    with pytest.raises(NotAModelError, match="does not say which files"):
        found(model)


def test_model_safetensors_comes_first_as_in_transformers(tmp_path: Path) -> None:
    model = put(tmp_path, "model.safetensors", "other.safetensors", CONSOLIDATED)
    (model / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone"}}')
    assert found(model) == ["model.safetensors"]


def test_mistrals_own_format_alone_is_not_enough(tmp_path: Path) -> None:
    with pytest.raises(NotAModelError, match="Mistral's own format"):
        found(put(tmp_path, CONSOLIDATED))


def test_several_sets_are_not_guessed_at(tmp_path: Path) -> None:
    with pytest.raises(NotAModelError, match=r"more than one set of weights: a\.safe.*b\.safe"):
        found(put(tmp_path, "a.safetensors", "b.safetensors"))


def test_the_only_whole_one_of_several_is_taken(tmp_path: Path) -> None:
    model = put(tmp_path, "a.safetensors")
    half = {"model.embed_tokens.weight": ("F16", (4, 2)), "model.layers.0.w": ("F16", (2,))}
    write_tensors(model / "half.safetensors", half)
    write_tensors(model / "whole.safetensors", half | {"model.layers.1.w": ("F16", (2,))})
    (model / "damaged.safetensors").write_bytes(b"")
    assert found(model, layers=2) == ["whole.safetensors"]


def test_the_weights_of_an_adapter_are_passed_over(tmp_path: Path) -> None:
    assert found(put(tmp_path, "adapter_model.safetensors", "x.safetensors")) == ["x.safetensors"]


def test_a_gguf_file_is_taken_where_there_are_no_safetensors(tmp_path: Path) -> None:
    assert found(put(tmp_path, "x.Q4_K_M.gguf", "mmproj-F16.gguf")) == ["x.Q4_K_M.gguf"]
    (tmp_path / "Tiny" / "model.safetensors").write_bytes(safetensors())
    assert found(tmp_path / "Tiny") == ["model.safetensors"]


def test_several_gguf_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotAModelError, match=r"x\.Q4_0\.gguf, x\.Q8_0\.gguf"):
        found(put(tmp_path, "x.Q4_0.gguf", "x.Q8_0.gguf"))


def test_a_split_gguf_says_how_to_join_it(tmp_path: Path) -> None:
    with pytest.raises(NotAModelError, match="split into several") as caught:
        found(put(tmp_path, "x-00001-of-00002.gguf", "x-00002-of-00002.gguf"))
    assert "llama-gguf-split --merge" in caught.value.remedy
