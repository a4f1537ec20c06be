"""The gradient of every quantized layer against float32, without its weights being kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from modules.loader.options import LoadOptions
from modules.loader.quantization.aten import AtenInt4Linear
from modules.loader.quantization.linear import QuantizedLinear
from modules.loader.transformers_loader import load
from tests.loader.quantization.stored import Form, write_quantized

FORMS = [
    *(Form(bits=bits, symmetric=bits != 3) for bits in (2, 3, 4, 8)),
    Form(symmetric=False, act_order=True),
    Form(group_size=-1),
    Form(version="v2", bias=True),
    Form(method="awq", symmetric=False),
]


@pytest.fixture(params=FORMS, ids=str)
def layers(
    request: pytest.FixtureRequest, tmp_path: Path, tokenizer_files: Path
) -> Iterator[list[QuantizedLinear]]:
    write_quantized(tmp_path / "model", request.param, tokenizer_files)
    options = LoadOptions(device="cpu", dtype="float32")
    model = load(tmp_path / "model", lambda stage, fraction: None, options).model
    return [module for module in model.modules() if isinstance(module, QuantizedLinear)][:7]


def gradient(layer: QuantizedLinear, x: Tensor, outer: Tensor) -> Tensor:
    own = x.clone().requires_grad_()
    layer(own).backward(outer.to(x.dtype))
    assert own.grad is not None
    return own.grad


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_it_is_that_of_the_weights_in_float32(
    layers: list[QuantizedLinear], dtype: torch.dtype, most: float
) -> None:
    torch.manual_seed(0)
    for layer in layers:
        x, outer = torch.randn(2, 5, layer.in_features), torch.randn(2, 5, layer.out_features)
        exact = x.clone().requires_grad_()
        functional.linear(exact, layer.dequantize(torch.float32)).backward(outer)
        assert exact.grad is not None
        found = gradient(layer, x.to(dtype), outer)
        assert found.dtype == dtype
        assert (found.float() - exact.grad).norm() < most * exact.grad.norm()


def test_a_layer_in_the_order_of_the_processor_has_the_gradient_of_its_twin() -> None:
    torch.manual_seed(0)
    layer = QuantizedLinear(64, 32, bits=4, group_size=32)
    layer.weight.data.random_(0, 256)
    layer.scales.data.uniform_(0.5, 1)
    assert layer.zeros is not None
    assert layer.perm is not None
    layer.zeros.data.uniform_(6, 9)
    layer.perm.data = torch.randperm(64).int()
    x, outer = torch.randn(6, 64), torch.randn(6, 32)
    meant = gradient(layer, x, outer)
    assert AtenInt4Linear.fits(layer)
    found = gradient(AtenInt4Linear.take(layer), x, outer)
    assert (found - meant).norm() < 1e-2 * meant.norm()


def test_another_product_behind_it_gets_its_gradient_through_it(
    layers: list[QuantizedLinear],
) -> None:
    layer = layers[0]
    weight = torch.randn(layer.in_features, 3, requires_grad=True)
    layer(torch.randn(4, 3) @ weight.t()).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert weight.grad.any()
