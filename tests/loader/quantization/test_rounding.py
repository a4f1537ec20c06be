"""What is quantized while it is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from modules.loader.options import LoadOptions
from modules.loader.quantization.format import LOAD_4BIT, LOAD_8BIT, QuantizationFormat
from modules.loader.quantization.linear import QuantizedLinear
from modules.loader.quantization.rounding import quantize
from modules.loader.transformers_loader import load
from tests.loader.quantization.stored import tiny_config

IDS = torch.tensor([[5, 17, 200, 3, 99, 42, 7, 311, 12, 64]])


def layer_of(weight: torch.Tensor, form: QuantizationFormat) -> QuantizedLinear:
    packed = quantize(weight, form)
    layer = QuantizedLinear(
        weight.shape[1], weight.shape[0], bits=form.bits, group_size=form.group_size
    )
    for name in ("weight", "scales", "zeros", "perm"):
        tensor = getattr(packed, name)
        setattr(layer, name, None if tensor is None else nn.Parameter(tensor, requires_grad=False))
    return layer


def error_of(weight: torch.Tensor, form: QuantizationFormat) -> float:
    got = layer_of(weight, form).dequantize(torch.float32)
    return float((got - weight).norm() / weight.norm())


@pytest.mark.parametrize(("form", "most"), [(LOAD_8BIT, 0.007), (LOAD_4BIT, 0.1)])
def test_the_weights_come_back_nearly(form: QuantizationFormat, most: float) -> None:
    torch.manual_seed(0)
    assert error_of(torch.randn(48, 256), form) < most


@pytest.mark.parametrize("form", [LOAD_8BIT, LOAD_4BIT])
def test_a_row_that_is_no_whole_number_of_groups_is_as_good(form: QuantizationFormat) -> None:
    torch.manual_seed(0)
    assert error_of(torch.randn(16, 200), form) < 0.1


@pytest.mark.parametrize("form", [LOAD_8BIT, LOAD_4BIT])
def test_weights_that_are_all_alike_stay_so(form: QuantizationFormat) -> None:
    for value in (0.0, 0.25, -3.0):
        got = layer_of(torch.full((8, 128), value), form).dequantize(torch.float32)
        assert torch.allclose(got, torch.full_like(got, value), atol=1e-6, rtol=2e-3), value


def test_fitting_leaves_less_error_in_most_weights_than_the_range_alone() -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 512)
    weight[:, ::64] *= 4
    grouped = weight.view(64, -1, 64)
    low = grouped.amin(-1, keepdim=True)
    step = (grouped.amax(-1, keepdim=True) - low) / 15
    plain = ((grouped - low) / step).round() * step + low
    fitted = layer_of(weight, LOAD_4BIT).dequantize(torch.float32).view(64, -1, 64)
    assert (fitted - grouped).abs().pow(0.7).mean() < (plain - grouped).abs().pow(0.7).mean()


@pytest.mark.parametrize(("quantize", "most"), [("8bit", 0.02), ("4bit", 0.3)])
def test_a_16_bit_checkpoint_is_quantized_while_it_is_read(
    quantize: str, most: float, tmp_path: Path, tokenizer_files: Path
) -> None:
    torch.manual_seed(0)
    reference = LlamaForCausalLM(tiny_config()).half()
    reference.save_pretrained(tmp_path)
    for file in tokenizer_files.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    options = LoadOptions(device="cpu", dtype="float32", quantize=quantize)  # type: ignore[arg-type]
    model = load(tmp_path, lambda stage, fraction: None, options).model
    assert sum(isinstance(module, QuantizedLinear) for module in model.modules()) == 14
    assert type(model.lm_head) is nn.Linear
    with torch.inference_mode():
        meant, got = reference.float().eval()(IDS).logits, model(IDS).logits
    assert (got - meant).norm() / meant.norm() < most
