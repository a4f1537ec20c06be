"""A quantized base teaches as the same base does when it is dequantized."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modules.training.events import Started
from tests.loader.quantization.stored import Form, quantized
from tests.training.trainer.runs import Place, make_base

FORMS = [Form(), Form(bits=8), Form(act_order=True, symmetric=False), Form("awq", symmetric=False)]


def make_twins(models: Path, form: Form) -> None:
    """Two bases: `packed` in a quantized format, and `plain` of the weights that it stands for."""
    size = {"hidden_size": 64, "intermediate_size": 64}
    plain, packed = make_base(models / "plain", **size), models / "packed"
    tensors = load_file(plain / "model.safetensors")
    stored = {}
    for seed, name in enumerate(sorted(tensors)):
        if not name.endswith("_proj.weight"):
            stored[name] = tensors[name]
            continue
        parts, tensors[name] = quantized(tensors[name], form, seed)
        prefix = name.removesuffix("weight")
        stored |= {prefix + part: tensor for part, tensor in parts.items()}
    save_file(
        {n: t.contiguous() for n, t in tensors.items()}, plain / "model.safetensors",
        {"format": "pt"},
    )  # fmt: skip
    shutil.copytree(plain, packed)
    save_file(
        {n: t.contiguous() for n, t in stored.items()}, packed / "model.safetensors",
        {"format": "pt"},
    )  # fmt: skip
    config = json.loads((packed / "config.json").read_text())
    config["quantization_config"] = form.config()
    (packed / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("form", FORMS)
def test_the_losses_are_those_of_the_dequantized_twin(place: Place, form: Form) -> None:
    make_twins(place.root / "models", form)
    expected = [step.loss for step in place.steps("plain", base="plain", max_steps=6)]
    for dequantize in ("once", "by layer"):
        name = dequantize.replace(" ", "-")
        steps = place.steps(name, base="packed", dequantize=dequantize, max_steps=6)
        assert [step.loss for step in steps] == pytest.approx(expected, rel=1e-4)
        told = "once" if dequantize == "once" else "layer by layer"
        assert f"dequantized {told} to float32" in place.told(Started, name)[0].how


def test_a_small_base_is_dequantized_once_unasked(place: Place) -> None:
    make_twins(place.root / "models", Form())
    place.steps(base="packed", max_steps=1)
    assert "dequantized once" in place.told(Started)[0].how


def test_the_lora_over_a_packed_base_is_the_one_over_its_twin(place: Place) -> None:
    make_twins(place.root / "models", Form())
    place.steps("packed", base="packed", dequantize="by layer", max_steps=3, name="packed")
    place.steps("plain", base="plain", max_steps=3, name="plain")
    one, other = (
        load_file(place.root / "loras" / name / "adapter_model.safetensors")
        for name in ("packed", "plain")
    )
    assert one.keys() == other.keys()
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=1e-3, atol=1e-4)
