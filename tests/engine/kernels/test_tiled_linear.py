"""Layers of any model on a card compute with the kernels what they computed without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GemmaConfig, GemmaForCausalLM

from modules.engine.worker.kernels.product import ProductKernels
from modules.engine.worker.kernels.tiled_linear import dequantize_into, use_tiles
from modules.engine.worker.runner import TransformersRunner
from modules.engine.worker.warm_up import warm_up
from modules.loader.options import LoadOptions
from modules.loader.quantization.linear import QuantizedLinear
from modules.loader.transformers_loader import load
from tests.engine.kernels.layers import quantized
from tests.engine.llama.cards import (
    DEVICE,
    VOCABULARY,
    Packing,
    assert_close,
    made_ready,
    pack_layers,
    rounded,
    text,
)
from tests.engine.llama.tracks import beginning, computed, model_logits, track
from tests.loader.quantization.stored import Form, write_quantized, write_tokenizer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA card"),
]

DTYPES = {torch.float16: 2e-3, torch.bfloat16: 1.2e-2, torch.float32: 1e-5}
SHAPES = [(1, 256), (5, 256), (2, 7, 256), (64, 256), (65, 256), (1, 300, 256)]


def off(found: Tensor, meant: Tensor) -> float:
    return float((found.double() - meant.double()).norm() / meant.double().norm())


@pytest.mark.parametrize("own", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize(
    ("bits", "group", "zeros"), [(4, 128, False), (4, 32, True), (8, 64, True)]
)
def test_a_layer_computes_what_it_did(
    bits: int, group: int, zeros: bool, ordered: bool, own: torch.dtype
) -> None:
    layer = quantized(256, 96, bits, group, zeros)
    bias = torch.randn(96, device=DEVICE)
    layer.bias = nn.Parameter(bias, requires_grad=False)
    if ordered:
        layer.perm = nn.Parameter(torch.randperm(256).int(), requires_grad=False)
    layer = layer.to(DEVICE)
    weight = layer.dequantize(torch.float32)
    assert use_tiles([layer, nn.Linear(4, 4, device=DEVICE)], ProductKernels(DEVICE, own)) == 1
    assert torch.equal(layer.dequantize(torch.float32), weight)
    assert torch.equal(layer.dequantize(own), weight.to(own))
    assert layer.weight.numel() == layer.scales.numel() == 0
    for dtype, most in DTYPES.items():
        for shape in SHAPES:
            x = torch.randn(shape, device=DEVICE).to(dtype)
            y = layer(x)
            assert (y.dtype, y.shape) == (dtype, (*shape[:-1], 96))
            meant = x.double() @ weight.double().t() + bias.double()
            assert off(y, meant) < most, (dtype, shape)


def test_the_gradient_of_an_input_is_that_of_the_weights() -> None:
    layer = quantized(256, 96, 4, 64, True).to(DEVICE)
    weight = layer.dequantize(torch.float16)
    use_tiles([layer], ProductKernels(DEVICE, torch.float16))
    x = torch.randn(5, 256, device=DEVICE, dtype=torch.float16, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert off(x.grad, weight.double().sum(0).expand(5, 256)) < 2e-3


@pytest.mark.parametrize("ordered", [False, True])
def test_weights_are_dequantized_into_a_part_of_something_wider(ordered: bool) -> None:
    layer = quantized(256, 96, 4, 64, True)
    if ordered:
        layer.perm = nn.Parameter(torch.randperm(256).int(), requires_grad=False)
    layer = layer.to(DEVICE)
    meant = layer.dequantize(torch.bfloat16)
    use_tiles([layer], ProductKernels(DEVICE, torch.bfloat16))
    wide = torch.zeros(100, 320, device=DEVICE, dtype=torch.bfloat16)
    dequantize_into(layer, wide[2:98, :256])
    assert torch.equal(wide[2:98, :256], meant)
    assert not wide[:, 256:].any()
    assert not wide[:2].any()
    assert not wide[98:].any()


def test_layers_that_have_no_tiles_are_left_as_they_are() -> None:
    layers = [quantized(256, 96, 3), quantized(256, 8, 4), quantized(96, 64, 4, 96)]
    for layer in (each.to(DEVICE) for each in layers):
        assert use_tiles([layer], ProductKernels(DEVICE, torch.float16)) == 0
        assert layer.weight.numel() > 0


FORMS = [
    Form(),
    Form(group_size=128, symmetric=False),
    Form(act_order=True, symmetric=False, version="v2"),
    Form(bits=8, group_size=64),
    Form(bits=3),
    Form(bias=True),
    Form(method="awq", symmetric=False),
]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_checkpoint_computes_with_the_kernels_what_it_says(
    form: Form, dtype: Any, tmp_path: Path
) -> None:
    reference = write_quantized(tmp_path / "model", form, write_tokenizer(tmp_path / "tokenizer"))
    options = LoadOptions(dtype=dtype)
    model = load(tmp_path / "model", lambda stage, fraction: None, options).model
    warm_up(model)
    layers = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    assert len(layers) == 14
    assert all(hasattr(layer, "fused") == (form.bits != 3) for layer in layers)
    for length in (5, 100):
        ids = text(length)
        with torch.inference_mode():
            found = model(input_ids=torch.tensor([ids], device=DEVICE)).logits[0]
        assert_close(found, model_logits(reference, ids), getattr(torch, dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_of_another_family_computes_what_its_weights_are(dtype: torch.dtype) -> None:
    torch.manual_seed(5)
    config = GemmaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=64,
        initializer_range=0.06,
    )
    reference = GemmaForCausalLM(config)
    nn.Module.eval(reference)
    for parameter in reference.parameters():
        parameter.data = parameter.data.to(dtype).float()
    model = rounded(reference, dtype)
    pack_layers(model, reference, Packing(group_size=64, zeros=True))
    runner = made_ready(model).runner
    assert isinstance(runner, TransformersRunner)
    layer = model.get_submodule("model.layers.0.mlp.down_proj")
    assert hasattr(layer, "fused")
    ids, rest = text(90), text(4, seed=1)
    one = track(ids)
    found = torch.stack([beginning(runner, one, 64), *computed(runner, one, rest)])
    assert_close(found, model_logits(reference, ids + rest)[89:], dtype)
