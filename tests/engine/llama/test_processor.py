"""Products with packed weights on the processor, and norms, against plain torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from modules.engine.worker.kernels.rows import rms_norm_reference
from modules.engine.worker.llama.processor import (
    DenseProduct,
    Int4Product,
    Int8Product,
    ProcessorRows,
)
from modules.loader.quantization.aten import AtenInt4Linear
from modules.loader.quantization.format import QuantizationFormat
from modules.loader.quantization.linear import QuantizedLinear
from modules.loader.quantization.rounding import quantize

Sizes = tuple[int, ...]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def packed(
    outputs: int, *, bits: int = 4, group: int = 32, perm: Tensor | None = None, bias: bool = False
) -> QuantizedLinear:
    form = QuantizationFormat("lantern", bits, group, symmetric=bits == 8)
    layer = QuantizedLinear(192, outputs, bits=bits, group_size=group, bias=bias)
    tensors = quantize(torch.randn(outputs, 192) / 14, form)
    layer.weight.data, layer.scales.data = tensors.weight, tensors.scales
    layer.zeros = None if tensors.zeros is None else torch.nn.Parameter(tensors.zeros, False)
    layer.perm = None if perm is None else torch.nn.Parameter(perm, False)
    if layer.bias is not None:
        layer.bias.data.normal_()
    return layer


def expected(layers: list[QuantizedLinear], x: Tensor) -> Tensor:
    """In float32, from x and weights as they are."""
    weight = torch.cat([layer.dequantize(torch.float32) for layer in layers])
    product = functional.linear(x.float(), weight)
    if layers[0].bias is None:
        return product
    return product + torch.cat([layer.bias.data for layer in layers if layer.bias is not None])


def close(found: Tensor, wanted: Tensor, within: float = 0.012) -> bool:
    return bool((found.float() - wanted).norm() <= within * wanted.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", [(64,), (128, 64, 64), (64, 16)])
@pytest.mark.parametrize("group", [32, 64])
@pytest.mark.parametrize("rows", [1, 3, 70])
def test_layers_taken_together_in_4_bits_give_what_each_gives(
    dtype: torch.dtype, sizes: Sizes, group: int, rows: int
) -> None:
    layers = [packed(size, group=group) for size in sizes]
    x = torch.randn(rows, 192).to(dtype)
    wanted = expected(layers, x)
    product = Int4Product.joined([AtenInt4Linear.take(layer) for layer in layers])
    y = product(x)
    assert (y.dtype, y.shape) == (dtype, (rows, sum(sizes)))
    assert close(y, wanted)


def test_4_bit_weights_come_back() -> None:
    order = torch.randperm(192).int()
    layers = [packed(64, perm=order), packed(64, perm=order)]
    weight = torch.cat([layer.dequantize(torch.float32) for layer in layers])
    product = Int4Product.joined([AtenInt4Linear.take(layer) for layer in layers])
    assert (product.out_features, product.in_features) == (128, 192)
    assert close(product.dequantize(torch.float32), weight, 0.004)


def test_act_order_and_biases_survive_being_joined() -> None:
    order = torch.randperm(192).int()
    layers = [packed(64, perm=order, bias=True), packed(64, perm=order, bias=True)]
    x = torch.randn(2, 192)
    wanted = expected(layers, x)
    assert close(Int4Product.joined([AtenInt4Linear.take(layer) for layer in layers])(x), wanted)


def test_the_layers_of_a_4_bit_product_go_on_working_and_share_its_codes() -> None:
    layers = [AtenInt4Linear.take(packed(size)) for size in (128, 64)]
    x = torch.randn(2, 192)
    before = [layer(x) for layer in layers]
    product = Int4Product.joined(layers)
    for layer, wanted in zip(layers, before, strict=True):
        assert torch.equal(layer(x), wanted)
        assert layer.weight.untyped_storage().data_ptr() == product.packed.data_ptr()


def test_a_row_in_4_bits_does_not_depend_on_the_rows_beside_it() -> None:
    product = Int4Product.joined([AtenInt4Linear.take(packed(64))])
    x = torch.randn(4, 192)
    assert torch.allclose(product(x)[1:2], product(x[1:2]), rtol=0.01, atol=1e-4)


def test_layers_that_differ_are_not_joined() -> None:
    def joins(*layers: QuantizedLinear) -> bool:
        return Int4Product.joins([AtenInt4Linear.take(layer) for layer in layers])

    order = torch.randperm(192).int()
    assert joins(packed(64), packed(64))
    assert joins(packed(64), packed(16))
    assert not joins(packed(16), packed(64)), "the codes of ATen lie in blocks of 64"
    assert not joins(packed(64), packed(64, group=64))
    assert not joins(packed(64), packed(64, perm=order))
    assert not joins(packed(64, perm=order.flip(0)), packed(64, perm=order))
    assert not Int4Product.joins([torch.nn.Linear(192, 64)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", [(64,), (128, 64, 64)])
@pytest.mark.parametrize("rows", [1, 3, 70])
def test_layers_taken_together_in_8_bits_give_what_each_gives(
    dtype: torch.dtype, sizes: Sizes, rows: int
) -> None:
    layers = [packed(size, bits=8, group=64, bias=True) for size in sizes]
    assert Int8Product.joins(layers)
    x = torch.randn(rows, 192).to(dtype)
    wanted = expected(layers, x)
    y = Int8Product.joined(layers)(x)
    assert (y.dtype, y.shape) == (dtype, (rows, sum(sizes)))
    assert close(y, wanted)


def test_8_bit_weights_come_back() -> None:
    order = torch.randperm(192).int()
    layer = packed(64, bits=8, group=64, perm=order)
    wanted = layer.dequantize(torch.float32)
    assert close(Int8Product.joined([layer]).dequantize(torch.float32), wanted, 0.004)


def test_only_8_bit_layers_that_are_alike_become_one_8_bit_product() -> None:
    order = torch.randperm(192).int()
    assert Int8Product.joins([packed(64, bits=8), packed(128, bits=8)])
    assert not Int8Product.joins([packed(64), packed(64)])
    assert not Int8Product.joins([packed(64, bits=8), packed(64, bits=8, group=64)])
    assert not Int8Product.joins([packed(64, bits=8), packed(64, bits=8, perm=order)])
    assert not Int8Product.joins([packed(24, bits=8)])


def test_dense_weights_are_rounded_to_the_nearest_of_255_levels_of_their_group() -> None:
    weight = torch.randn(64, 192)
    weight[3, 32:64] = 0
    error = (Int8Product.of(weight).dequantize(torch.float32) - weight).abs().view(64, -1, 32)
    step = weight.view(64, -1, 32).abs().amax(-1, keepdim=True) / 127
    # Half a step, and what bfloat16 leaves of the product with the code's high half.
    assert bool((error <= 1.1 * step).all())
    assert float(error.square().mean().sqrt() / step.mean()) < 0.45
    assert float(error[3, 1].max()) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_dense_product_has_the_dtype_of_its_input(dtype: torch.dtype) -> None:
    weight, bias, x = torch.randn(48, 40), torch.randn(48), torch.randn(3, 40).to(dtype)
    product = DenseProduct(weight.bfloat16(), bias)
    assert product(x).dtype == dtype
    assert close(product(x), functional.linear(x.float(), weight, bias), 0.02)
    assert torch.equal(product.dequantize(torch.float32), weight.bfloat16().float())


@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("size", [1e-4, 1.0, 300.0])
def test_the_cheaper_norm_is_the_norm(rows: int, size: float) -> None:
    x, weight = size * torch.randn(rows, 576), torch.randn(576)
    found = ProcessorRows(576, 1e-5).rms_norm(x, weight, 1e-5)
    torch.testing.assert_close(found, rms_norm_reference(x, weight, 1e-5))


def test_a_norm_of_zeros_is_zero() -> None:
    zeros = torch.zeros(1, 576)
    assert torch.equal(ProcessorRows(576, 1e-5).rms_norm(zeros, torch.ones(576), 1e-5), zeros)


def test_a_norm_of_another_width_or_dtype_is_left_to_the_reference() -> None:
    rows = ProcessorRows(576, 1e-5)
    for x, eps in (
        (torch.randn(1, 64), 1e-5),
        (torch.randn(1, 576), 1e-6),
        (torch.randn(1, 576).bfloat16(), 1e-5),
    ):
        weight = torch.randn(x.shape[1]).to(x.dtype)
        assert torch.equal(rows.rms_norm(x, weight, eps), rms_norm_reference(x, weight, eps))


def test_the_residual_is_added_in_place_before_the_norm() -> None:
    h, delta, weight = torch.randn(2, 576), torch.randn(2, 576), torch.randn(576)
    wanted = h + delta
    found = ProcessorRows(576, 1e-5).add_rms_norm(h, delta, weight, 1e-5)
    assert torch.equal(h, wanted)
    torch.testing.assert_close(found, rms_norm_reference(wanted, weight, 1e-5))
