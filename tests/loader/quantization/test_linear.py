"""What a quantized layer is to the rest of torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from modules.loader.options import LoadOptions
from modules.loader.quantization.linear import QuantizedLinear
from modules.loader.transformers_loader import load
from tests.loader.quantization.stored import Form, write_quantized

FORMS = [Form(), Form(bits=3, symmetric=False, act_order=True, bias=True), Form(bits=8)]


@pytest.fixture(params=FORMS, ids=str)
def layer(request: pytest.FixtureRequest, tmp_path: Path, tokenizer_files: Path) -> QuantizedLinear:
    write_quantized(tmp_path / "model", request.param, tokenizer_files)
    options = LoadOptions(device="cpu", dtype="float32")
    model = load(tmp_path / "model", lambda stage, fraction: None, options).model
    found = model.get_submodule("model.layers.0.self_attn.q_proj")
    assert isinstance(found, QuantizedLinear)
    return found


def test_its_gradient_is_that_of_the_dequantized_weights(layer: QuantizedLinear) -> None:
    x = torch.randn(2, 5, layer.in_features, requires_grad=True)
    meant = x.detach().clone().requires_grad_()
    bias = layer.bias
    layer(x).square().sum().backward()
    dense = functional.linear(meant, layer.dequantize(torch.float32), bias)
    dense.square().sum().backward()
    assert x.grad is not None
    assert meant.grad is not None
    assert torch.allclose(x.grad, meant.grad, rtol=1e-4, atol=1e-5)


def test_a_gradient_keeps_no_dequantized_weight(layer: QuantizedLinear) -> None:
    x = torch.randn(4, layer.in_features, requires_grad=True)
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(x)
    assert not any(tensor.numel() >= layer.in_features * layer.out_features for tensor in kept)


def test_its_state_goes_into_a_dictionary_and_back(layer: QuantizedLinear) -> None:
    state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    x = torch.randn(3, layer.in_features)
    before = layer(x)
    with torch.no_grad():
        layer.weight.zero_()
        layer.scales.zero_()
    assert not torch.equal(layer(x), before)
    layer.load_state_dict(state)
    assert torch.equal(layer(x), before)


def test_half_of_a_model_leaves_the_codes_alone(layer: QuantizedLinear) -> None:
    codes = layer.weight.clone()
    exact = layer.dequantize(torch.float32)
    layer.to(torch.bfloat16)
    assert torch.equal(layer.weight, codes)
    assert (layer.dequantize(torch.float32) - exact).norm() / exact.norm() < 1e-2
