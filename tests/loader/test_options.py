"""How a model is to be loaded: bounds, flags, and what was saved for it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from modules.errors import InvalidInputError, SettingsError, StorageError
from modules.loader.options import LoadOptions, load_options
from modules.loader.saved_options import forget_options, save_options, saved_options
from modules.settings import load_settings

FULL = LoadOptions(
    device="cpu", dtype="float16", quantize="4bit", context_length=2048, offload=True,
    cache_tokens=8192, gpu_memory=(10, 20), cpu_memory=30, disk=True, wbits=4, groupsize=128,
    loader="gptqmodel", cache_type="8-bit",
)  # fmt: skip


def from_flags(flags: str, saved: LoadOptions | None = None) -> LoadOptions:
    return load_options(load_settings(flags.split(), {}), saved)


# -- bounds -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("device", "cuda:1"), ("dtype", "int8"), ("quantize", "2bit"), ("loader", "exllama"),
        ("cache_type", "4-bit"), ("cache_type", 8),
        ("context_length", -1), ("context_length", 2**40), ("context_length", 1.5),
        ("context_length", True), ("cache_tokens", 2**20 + 1), ("cpu_memory", -1), ("wbits", 5),
        ("groupsize", 0), ("groupsize", -2), ("gpu_memory", (-1,)), ("gpu_memory", (1,) * 1000),
        ("gpu_memory", ("x",)), ("offload", "yes"), ("disk", 1), ("device", "x" * 10_000),
    ],
)  # fmt: skip
def test_a_value_out_of_its_bounds_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=name) as caught:
        LoadOptions(**{name: value})
    assert caught.value.field == name
    assert caught.value.remedy
    assert len(str(caught.value)) < 200


# -- flags ------------------------------------------------------------------------------


def test_without_flags_everything_is_at_its_default() -> None:
    assert from_flags("") == LoadOptions()


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ("--cpu", {"device": "cpu"}),
        ("--bf16", {"dtype": "bfloat16"}),
        ("--load-in-8bit", {"quantize": "8bit"}),
        ("--load-in-4bit", {"quantize": "4bit"}),
        ("--ctx-size 2048", {"context_length": 2048}),
        ("--cache-tokens 8192", {"cache_tokens": 8192}),
        ("--cache-type 8-bit", {"cache_type": "8-bit"}),
        ("--auto-devices", {"offload": True}),
        ("--gpu-memory 10 5", {"gpu_memory": (10 * 2**30, 5 * 2**30), "offload": True}),
        ("--cpu-memory 3500MiB", {"cpu_memory": 3500 * 2**20, "offload": True}),
        ("--disk", {"disk": True, "offload": True}),
        ("--wbits 4 --groupsize 128", {"wbits": 4, "groupsize": 128}),
        ("--loader gptqmodel", {"loader": "gptqmodel"}),
    ],
)
def test_each_flag_is_an_option(flags: str, options: dict[str, Any]) -> None:
    assert from_flags(flags) == LoadOptions(**options)


def test_a_flag_wins_over_what_was_saved_and_that_over_the_default() -> None:
    saved = LoadOptions(quantize="4bit", context_length=1024)
    options = from_flags("--load-in-8bit", saved)
    assert (options.quantize, options.context_length) == ("8bit", 1024)


# -- saved ------------------------------------------------------------------------------


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    save_options(file, "Some_Model-7B.v1", FULL)
    save_options(file, "Other", LoadOptions(wbits=4))
    assert saved_options(file, "Some_Model-7B.v1") == FULL
    assert saved_options(file, "Other") == LoadOptions(wbits=4)
    assert saved_options(file, "None") is None


def test_every_option_can_be_saved() -> None:
    assert all(
        getattr(FULL, field.name) != field.default for field in dataclasses.fields(LoadOptions)
    )


def test_defaults_are_saved_too(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    save_options(file, "A", LoadOptions())
    assert saved_options(file, "A") == LoadOptions()


def test_saved_options_can_be_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    save_options(file, "A", FULL)
    save_options(file, "B", FULL)
    forget_options(file, "A")
    forget_options(file, "never there")
    assert (saved_options(file, "A"), saved_options(file, "B")) == (None, FULL)


def test_without_a_file_nothing_is_saved(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    assert saved_options(file, "A") is None
    forget_options(file, "A")
    assert not file.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A: {quantise: 4bit}", "unknown key 'quantise'. .*quantize"),
        ("A: {zzz: 1}", "The keys are device, "),
        ("A: {context_length: -5}", "context_length cannot be -5"),
        ("A: {context_length: many}", "context_length cannot be 'many'"),
        ("A: {gpu_memory: 5}", "gpu_memory cannot be 5"),
        ("A: {gpu_memory: [a]}", "gpu_memory"),
        ("A: {device: [a]}", "device of A in models.yaml has no plain value"),
        ("A: {gpu_memory: [[1]]}", "gpu_memory of A in models.yaml has no plain value"),
        ("A: 4bit", "no list of settings"),
        ("- A", "models.yaml is not a list of settings"),
        ("A: [", "models.yaml is not valid YAML"),
        ("A: !!python/object/apply:os.system [id]", "not valid YAML"),
        ("# " + "x" * 70_000, "64 KB"),
    ],
)
def test_a_damaged_file_is_one_sentence_and_a_remedy(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=words) as caught:
        saved_options(file, "A")
    assert "models.yaml" in caught.value.message
    assert caught.value.remedy


def test_a_damaged_file_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("A: [")
    with pytest.raises(SettingsError):
        save_options(file, "B", FULL)
    assert file.read_text() == "A: ["


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written"):
        save_options(tmp_path / "none" / "models.yaml", "A", FULL)
