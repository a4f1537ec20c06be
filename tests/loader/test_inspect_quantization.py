"""How a checkpoint is quantized: from its files, from flags, or from its shapes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from modules.loader.inspect import Inspection, inspect_checkpoint
from modules.loader.options import LoadOptions
from modules.loader.quantization.format import QuantizationFormat
from tests.loader.folders import CONFIG, Shapes, awq, gptq, make_model, make_packed_model

LAYER = "model.layers.0.mlp.up_proj"
WEIGHTS = 256 * 512 + 256


def inspect(
    models: Path, shapes: Shapes, settings: Any = None, options: LoadOptions | None = None
) -> Inspection:
    """A checkpoint of `shapes` with `settings` in config.json."""
    config = CONFIG | ({"quantization_config": settings} if settings is not None else {})
    return inspect_checkpoint(make_packed_model(models, shapes, config__json=config), options)


def form_of(inspection: Inspection) -> QuantizationFormat:
    assert inspection.problem == ""
    assert inspection.quantization is not None
    return inspection.quantization


# -- what the files say -----------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group_size", [32, 64, 128, -1])
def test_gptq_of_every_width_and_group(tmp_path: Path, bits: int, group_size: int) -> None:
    settings = {"quant_method": "gptq", "bits": bits, "group_size": group_size, "desc_act": True}
    inspection = inspect(tmp_path, gptq(bits, group_size), settings | {"sym": False})
    assert form_of(inspection) == QuantizationFormat("gptq", bits, group_size, False, True, "v1")
    assert inspection.parameters == WEIGHTS
    assert inspection.dtype == "float16"


@pytest.mark.parametrize(
    ("settings", "version"),
    [
        ({}, "v1"),
        ({"checkpoint_format": "gptq"}, "v1"),
        ({"checkpoint_format": "gptq_v2"}, "v2"),
        ({"format": "gptq_v2"}, "v2"),
        ({"checkpoint_format": "marlin"}, "marlin"),
        ({"is_marlin_format": True}, "marlin"),
        ({"dynamic": {"+:.*down_proj": {"bits": 8}}}, "dynamic"),
        ({"dynamic": {"-:.*lm_head": {}}}, "v1"),
    ],
)
def test_the_version_of_gptq(tmp_path: Path, settings: dict[str, Any], version: str) -> None:
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 128} | settings
    inspection = inspect(tmp_path, gptq(), settings)
    assert inspection.quantization is not None
    assert inspection.quantization.version == version
    assert bool(inspection.problem) == (version not in ("v1", "v2"))
    assert inspection.problem == "" or "--loader gptqmodel" in inspection.remedy


def test_old_gptq_keeps_its_settings_in_a_file_of_its_own(tmp_path: Path) -> None:
    settings = {"bits": 4, "group_size": 128, "damp_percent": 0.01, "desc_act": False}
    model = make_packed_model(tmp_path, gptq(), quantize_config__json=settings)
    assert form_of(inspect_checkpoint(model)).group_size == 128


def test_old_awq_keeps_its_settings_in_a_file_of_its_own(tmp_path: Path) -> None:
    settings = {"zero_point": True, "q_group_size": 64, "w_bit": 4, "version": "GEMM"}
    inspection = inspect_checkpoint(
        make_packed_model(tmp_path, awq(4, 64), quant_config__json=settings)
    )
    assert form_of(inspection) == QuantizationFormat("awq", 4, 64, version="gemm")
    assert inspection.parameters == WEIGHTS


def test_awq_without_zero_points_is_symmetric(tmp_path: Path) -> None:
    settings = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": False}
    assert form_of(inspect(tmp_path, awq(), settings)).symmetric


@pytest.mark.parametrize(
    ("settings", "method", "bits", "remedy"),
    [
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "awq", 4, "--loader gptqmodel"),
        ({"quant_method": "gptq", "bits": 5}, "gptq", 5, "--loader gptqmodel"),
        ({"quant_method": "exl2", "bits": 4.65}, "exl2", 5, "Get a GPTQ"),
        ({"quant_method": "hqq", "nbits": 4}, "hqq", 0, "Get a GPTQ"),
        ({"quant_method": "fp8"}, "fp8", 0, "Get a GPTQ"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors", 0, "Get a GPTQ"),
        ({"load_in_4bit": True}, "bitsandbytes", 4, "Get a GPTQ"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes", 8, "Get a GPTQ"),
        ({"quant_method": ["gptq"]}, "unknown", 0, "Get a GPTQ"),
        ({}, "unknown", 0, "Get a GPTQ"),
    ],
)
def test_what_is_not_read_is_named_with_a_way_out(
    tmp_path: Path, settings: dict[str, Any], method: str, bits: int, remedy: str
) -> None:
    inspection = inspect(tmp_path, gptq(), settings)
    assert inspection.quantization is not None
    assert (inspection.quantization.method, inspection.quantization.bits) == (method, bits)
    assert f"quantized with {method}" in inspection.problem
    assert inspection.remedy.startswith(("Get a GPTQ", "Load it with"))
    assert remedy in inspection.remedy


def test_gptqmodel_loads_what_lantern_does_not_read(tmp_path: Path) -> None:
    settings = {"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}
    options = LoadOptions(loader="gptqmodel")
    assert inspect(tmp_path, gptq(), settings, options).problem == ""
    assert inspect(tmp_path / "b", gptq(), {"quant_method": "exl2"}, options).problem


def test_the_parameters_of_bitsandbytes_are_counted_unpacked(tmp_path: Path) -> None:
    shapes: Shapes = {
        "a.weight": ("U8", (512 * 256 // 2, 1)),
        "a.weight.absmax": ("U8", (2048,)),
        "a.weight.nested_absmax": ("F32", (8,)),
        "a.weight.quant_map": ("F32", (16,)),
        "a.weight.quant_state.bitsandbytes__nf4": ("U8", (200,)),
        "b.weight": ("I8", (64, 64)),
        "b.SCB": ("F32", (64,)),
    }
    inspection = inspect(tmp_path, shapes, {"quant_method": "bitsandbytes"})
    assert inspection.parameters == 512 * 256 + 64 * 64


# -- what the flags and the shapes say ----------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group_size", [32, 64, 128, -1])
def test_old_gptq_without_settings_is_told_by_its_shapes(
    tmp_path: Path, bits: int, group_size: int
) -> None:
    inspection = inspect(tmp_path, gptq(bits, group_size, size=(352, 512)))
    form = form_of(inspection)
    assert (form.bits, form.group_size, form.version) == (bits, group_size, "v1")
    assert form.act_order, "its g_idx may be out of order"
    assert f"{bits} bits" in inspection.note


def test_flags_say_what_no_file_says(tmp_path: Path) -> None:
    inspection = inspect(tmp_path, gptq(4, 96), options=LoadOptions(wbits=4, groupsize=96))
    assert form_of(inspection).group_size == 96
    assert inspection.note == ""


def test_an_unusual_group_size_must_be_told(tmp_path: Path) -> None:
    inspection = inspect(tmp_path, gptq(4, 96))
    assert "do not tell its group size" in inspection.problem
    assert "--wbits and --groupsize" in inspection.remedy
    assert inspection.quantization is None


def test_flags_that_the_shapes_contradict_are_said_to(tmp_path: Path) -> None:
    inspection = inspect(tmp_path, gptq(4, 64), options=LoadOptions(wbits=8, groupsize=128))
    assert inspection.problem == (
        "--wbits and --groupsize of Tiny say 8 bits and groups of 128, but "
        f"{LAYER} is stored with 4 bits and groups of 64."
    )


def test_settings_in_a_file_win_over_flags(tmp_path: Path) -> None:
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    inspection = inspect(tmp_path, gptq(), settings, LoadOptions(wbits=8, groupsize=32))
    assert (form_of(inspection).bits, form_of(inspection).group_size) == (4, 128)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"bits": 8, "group_size": 128}, "8 bits and groups of 128"),
        ({"bits": 4, "group_size": 32}, "4 bits and groups of 32"),
        ({"bits": 4, "group_size": -1}, "4 bits and one group a row"),
        ({"bits": 4}, "4 bits and one group a row"),
    ],
)
def test_settings_that_the_shapes_contradict_are_said_to(
    tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    model = make_packed_model(tmp_path, gptq(), quantize_config__json=settings)
    assert inspect_checkpoint(model).problem == (
        f"quantize_config.json of Tiny says {said}, but "
        f"{LAYER} is stored with 4 bits and groups of 128."
    )


@pytest.mark.parametrize(
    ("part", "stored"),
    [
        ("qweight", ("F32", (32, 512))),
        ("qweight", ("I32", (32, 511))),
        ("qweight", ("I32", (33, 512))),
        ("qweight", ("I32", (32 * 512,))),
        ("qzeros", None),
        ("qzeros", ("F16", (2, 64))),
        ("qzeros", ("I32", (3, 64))),
        ("qzeros", ("I32", (2, 63))),
        ("qzeros", ("I32", (2, 512 * 32))),
        ("scales", None),
        ("scales", ("F16", (2, 512, 1))),
        ("scales", ("F16", (2, 0))),
        ("scales", ("F16", (0, 512))),
        ("g_idx", ("I32", (255,))),
        ("g_idx", ("I32", (256, 1))),
    ],
)
def test_a_layer_that_is_not_packed_as_it_must_be_is_named(
    tmp_path: Path, part: str, stored: tuple[str, tuple[int, ...]] | None
) -> None:
    shapes = {name: shape for name, shape in gptq().items() if name != f"{LAYER}.{part}"}
    if stored:
        shapes[f"{LAYER}.{part}"] = stored
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    assert f"but {LAYER} is not packed so." in inspect(tmp_path, shapes, settings).problem


def test_awq_is_not_mistaken_for_gptq(tmp_path: Path) -> None:
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    assert f"{LAYER} is not packed so" in inspect(tmp_path, awq(), settings).problem
    assert f"{LAYER} is not packed as GPTQ" in inspect(tmp_path / "b", awq()).problem


def test_settings_without_a_packed_weight_are_said_to(tmp_path: Path) -> None:
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    inspection = inspect(tmp_path, {"model.norm.weight": ("F16", (4,))}, settings)
    assert inspection.problem == "Tiny/config.json speaks of GPTQ, but no weight is packed."


# -- hostile settings -------------------------------------------------------------------

NONSENSE = ["4; rm -rf /", -1, 10**9, 10**400, math.nan, math.inf, [4], {"a": 4}, True, 0, 4.5, ""]


@pytest.mark.parametrize("file", ["quantize_config.json", "quant_config.json"])
@pytest.mark.parametrize("bits", [*NONSENSE, None])
def test_impossible_bits_end_in_a_sentence(tmp_path: Path, file: str, bits: Any) -> None:
    content = json.dumps({"bits": bits, "group_size": 128})
    model = make_model(tmp_path, **{file.replace(".", "__"): content})
    inspection = inspect_checkpoint(model)
    assert f"Tiny/{file} describes its quantization wrongly: " in inspection.problem
    assert inspection.problem.endswith(".")
    assert len(inspection.problem) < 200


@pytest.mark.parametrize("size", [n for n in NONSENSE if n != -1])
def test_an_impossible_group_size_ends_in_a_sentence(tmp_path: Path, size: Any) -> None:
    content = json.dumps({"bits": 4, "group_size": size})
    inspection = inspect_checkpoint(make_model(tmp_path, quantize_config__json=content))
    assert "describes its quantization wrongly: its group_size is" in inspection.problem


@pytest.mark.parametrize("key", ["quant_method", "checkpoint_format", "sym", "desc_act", "dynamic"])
@pytest.mark.parametrize("value", [*NONSENSE, None])
def test_any_other_nonsense_ends_in_a_sentence_or_in_nothing(
    tmp_path: Path, key: str, value: Any
) -> None:
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 128} | {key: value}
    inspection = inspect(tmp_path, gptq(), settings)
    assert not inspection.problem or inspection.problem.endswith(".")


@pytest.mark.parametrize("bits", NONSENSE)
def test_impossible_bits_of_a_foreign_method_are_passed_over(tmp_path: Path, bits: Any) -> None:
    inspection = inspect(tmp_path, gptq(), {"quant_method": "exl2", "bits": bits})
    assert inspection.quantization is not None
    assert 0 <= inspection.quantization.bits <= 16
    assert "exl2" in inspection.problem
