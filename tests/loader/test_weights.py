"""Damaged and hostile weight files: each is refused, with its name."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modules.errors import ModelError, NotAModelError, UnsafeModelError
from modules.loader.checkpoint import check_checkpoint
from modules.loader.inspect import inspect_checkpoint
from tests.loader.folders import Canary, make_model, pickles, safetensors

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
TENSORS: dict[str, Any] = {
    "model.embed_tokens.weight": {"dtype": "BF16", "shape": [4, 3], "data_offsets": [0, 24]},
    "model.layers.0.qweight": {"dtype": "I32", "shape": [2, 2], "data_offsets": [24, 40]},
    "model.layers.0.scales": {"dtype": "F16", "shape": [1, 4], "data_offsets": [40, 48]},
    "model.norm.weight": {"dtype": "F32", "shape": [3], "data_offsets": [48, 60]},
}
HARMLESS = {"norm": {"dtype": "F32", "shape": [3, 5], "data_offsets": [0, 60]}}
DATA = bytes(60)
WHOLE = safetensors(TENSORS, DATA)
HEADER_SIZE = len(WHOLE) - len(DATA) - 8
RAW = WHOLE[8 : 8 + HEADER_SIZE]

IMPOSSIBLE_ENTRIES: list[Any] = [
    {"dtype": "BF17"},
    {"dtype": ["BF16"]},
    {"dtype": None},
    {"dtype": ""},
    {"shape": [5, 5]},
    {"shape": [-2, -3]},
    {"shape": [4.0, 3]},
    {"shape": [True, 12]},
    {"shape": None},
    {"shape": "43"},
    {"shape": {}},
    {"shape": [2**62, 2**62]},
    {"shape": [10**400]},
    {"shape": [[4, 3]]},
    {"shape": []},
    {"data_offsets": [0]},
    {"data_offsets": [0, 8]},
    {"data_offsets": [4, 28]},
    {"data_offsets": [60, 84]},
    {"data_offsets": [24, 0]},
    {"data_offsets": [-12, 12]},
    {"data_offsets": ["0", "24"]},
    {"data_offsets": [0.0, 24.0]},
    {"data_offsets": None},
    {"data_offsets": [0, 24, 48]},
    {"data_offsets": [2**63, 2**63 + 24]},
]
NO_ENTRIES: list[Any] = [None, 3, "x", [], {}, True]


def with_length(length: int) -> bytes:
    return struct.pack("<Q", length) + WHOLE[8:]


def with_header(raw: bytes) -> bytes:
    return struct.pack("<Q", len(raw)) + raw + DATA


def damaged() -> dict[str, bytes]:
    """At least 200 ways to be no safetensors file."""
    cases = {f"cut off at {n}": WHOLE[:n] for n in range(0, len(WHOLE), 5)}
    cases |= {f"{n} bytes too many": WHOLE + bytes(n) for n in (1, 7, 8, 100)}
    lengths = (0, 1, 2, HEADER_SIZE - 1, HEADER_SIZE + 1, HEADER_SIZE + 60, 10**8, 10**8 + 1)
    cases |= {f"header of {n}": with_length(n) for n in (*lengths, 2**31, 2**32, 2**63, 2**64 - 1)}
    for name in TENSORS:
        for change in IMPOSSIBLE_ENTRIES:
            entry = TENSORS[name] | change
            if entry != TENSORS[name]:
                cases[f"{name} {change}"] = safetensors(TENSORS | {name: entry}, DATA)
        for key in ("dtype", "shape", "data_offsets"):
            entry = {k: v for k, v in TENSORS[name].items() if k != key}
            cases[f"{name} without {key}"] = safetensors(TENSORS | {name: entry}, DATA)
        twin = json.dumps(name).encode() + b": " + json.dumps(TENSORS[name]).encode()
        cases[f"{name} twice"] = with_header(RAW[:-1] + b", " + twin + b"}")
        cases[f"{name} under two names"] = safetensors(TENSORS | {"twin": TENSORS[name]}, DATA)
        without = {k: v for k, v in TENSORS.items() if k != name}
        cases[f"a hole instead of {name}"] = safetensors(without, DATA)
        for value in NO_ENTRIES:
            cases[f"{name} is {value!r}"] = safetensors(TENSORS | {name: value}, DATA)
    headers = {
        "no JSON": b"{{}}",
        "a list": b"[]",
        "a number": b"7",
        "empty": b"",
        "with bytes that are no UTF-8": RAW.replace(b"norm", b"\xff\xfe\xfa\xfb"),
        "in UTF-16": RAW.decode().encode("utf-16-le"),
        "with a byte order mark": b"\xef\xbb\xbf" + RAW,
        "after a space": b" " + RAW,
        "nested without end": b"[" * 100_000,
        "objects without end": b'{"a":' * 100_000,
        "a number of 10,000 digits": b'{"a":' + b"9" * 10_000 + b"}",
        "metadata that are numbers": RAW[:-1] + b', "__metadata__": {"format": 1}}',
        "metadata that are a list": RAW[:-1] + b', "__metadata__": []}',
        "followed by more": RAW + b"{}",
        "of zeros": bytes(HEADER_SIZE),
        "no tensor": b"{}",
    }
    return cases | {f"header {name}": with_header(raw) for name, raw in headers.items()}


DAMAGED = damaged()


def make_sharded(models: Path, second: bytes) -> Path:
    """A model of two files, of which the second is in question."""
    index = {"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}
    model = make_model(models, model__safetensors=None, model__safetensors__index__json=index)
    (model / SHARDS[0]).write_bytes(safetensors())
    (model / SHARDS[1]).write_bytes(second)
    return model


def test_there_are_two_hundred_damages() -> None:
    assert len(DAMAGED) >= 200


def test_the_file_is_accepted_undamaged(tmp_path: Path) -> None:
    tensors = inspect_checkpoint(make_sharded(tmp_path, WHOLE)).tensors
    assert tensors["model.layers.0.qweight"].shape == (2, 2)


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_refused_by_its_name(tmp_path: Path, case: str) -> None:
    model = make_sharded(tmp_path, DAMAGED[case])
    inspection = inspect_checkpoint(model)
    assert inspection.problem.startswith(f"Tiny/{SHARDS[1]} is damaged: ")
    assert inspection.problem.endswith(".")
    assert inspection.remedy
    with pytest.raises(NotAModelError) as caught:
        check_checkpoint(model)
    assert caught.value.message == inspection.problem


# -- pickles ----------------------------------------------------------------------------

WEIGHT_NAMES = (
    "pytorch_model.bin",
    "model.pt",
    "model.pth",
    "model.ckpt",
    "model.safetensors",
    "model-4bit-128g.safetensors",
    "model.gguf",
    "model.dat",
    "model",
)
OTHER_NAMES = (
    "config.json",
    "quantize_config.json",
    "quant_config.json",
    "tokenizer_config.json",
    "generation_config.json",
    "model.safetensors.index.json",
)
KINDS = list(pickles(Path("canary")))


def test_there_are_a_hundred_pickles() -> None:
    assert len(KINDS) * len(WEIGHT_NAMES) >= 100


def test_the_canary_sings_when_a_pickle_is_loaded(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Canary(tmp_path / "canary"))).close()
    assert (tmp_path / "canary").exists()


@pytest.fixture
def refused(tmp_path: Path) -> Callable[[str, bytes], ModelError]:
    """What a folder with this file, and no other weights, is refused with."""

    def refuse(name: str, content: bytes) -> ModelError:
        model = make_model(tmp_path, model__safetensors=None)
        (model / name).write_bytes(content)
        assert inspect_checkpoint(model).problem
        with pytest.raises(ModelError) as caught:
            check_checkpoint(model)
        assert not (tmp_path / "canary").exists()
        return caught.value

    return refuse


@pytest.mark.parametrize("name", [*WEIGHT_NAMES, *OTHER_NAMES])
@pytest.mark.parametrize("kind", KINDS)
def test_a_pickle_under_any_name_is_refused_unread(
    tmp_path: Path, refused: Callable[[str, bytes], ModelError], kind: str, name: str
) -> None:
    error = refused(name, pickles(tmp_path / "canary")[kind])
    assert isinstance(error, UnsafeModelError)
    assert error.message.startswith(f"Tiny/{name} is a pickle")
    assert "safetensors" in error.remedy


@pytest.mark.parametrize("kind", KINDS)
def test_a_pickle_behind_good_safetensors_is_refused(
    tmp_path: Path, refused: Callable[[str, bytes], ModelError], kind: str
) -> None:
    content = safetensors() + pickles(tmp_path / "canary")[kind]
    assert "model.safetensors is damaged" in refused("model.safetensors", content).message


@pytest.mark.parametrize("kind", KINDS)
def test_a_pickle_in_a_header_is_refused(
    tmp_path: Path, refused: Callable[[str, bytes], ModelError], kind: str
) -> None:
    content = with_header(pickles(tmp_path / "canary")[kind])
    assert "model.safetensors is damaged" in refused("model.safetensors", content).message


def test_safetensors_that_happen_to_begin_as_a_pickle_are_what_they_are(tmp_path: Path) -> None:
    header = json.dumps(HARMLESS).encode().ljust(0x0480)  # the length is 80 04 00 …
    model = make_model(tmp_path, model__safetensors=with_header(header))
    assert check_checkpoint(model).parameters == 15
