"""The kernels for packed weights against plain torch; skipped where there is no card."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modules.engine.worker.kernels.packed import CudaLinear, PackedKernels, use_kernels
from modules.loader.quantization.linear import QuantizedLinear

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA card"),
]

SHAPES = [(64, 8), (576, 1536), (1536, 577), (4096, 4096), (11008, 256)]
ROWS = (1, 2, 5, 8, 9, 70)


def layer_of(inputs: int, outputs: int, bits: int, group: int, zeros: bool) -> QuantizedLinear:
    torch.manual_seed(inputs + outputs + bits)
    layer = QuantizedLinear(inputs, outputs, bits=bits, group_size=group)
    layer.perm = None
    layer.zeros = layer.zeros if zeros else None
    layer.weight.data = torch.randint(0, 256, layer.weight.shape, dtype=torch.uint8)
    layer.scales.data = torch.rand(layer.scales.shape).half() * 0.01
    if layer.zeros is not None:
        layer.zeros.data = (torch.rand(layer.zeros.shape) * (2**bits - 1)).half()
    return layer.cuda()


@pytest.fixture(scope="module")
def kernels() -> PackedKernels:
    return PackedKernels()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize(("bits", "group"), [(4, 32), (4, 64), (8, 32), (8, -1)])
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_the_product_is_that_of_plain_torch(
    inputs: int, outputs: int, bits: int, group: int, zeros: bool, dtype: torch.dtype,
    kernels: PackedKernels,
) -> None:  # fmt: skip
    layer = layer_of(inputs, outputs, bits, group, zeros)
    exact = layer.dequantize(torch.float32).double()
    assert use_kernels(nn.ModuleList([layer]), kernels) == 1
    assert type(layer) is CudaLinear
    for rows in ROWS:
        x = torch.randn(rows, inputs, device="cuda", dtype=dtype)
        meant = x.double() @ exact.t()
        error = (layer(x).double() - meant).norm() / meant.norm()
        assert error < (4e-3 if dtype == torch.bfloat16 else 1e-3), rows


@pytest.mark.parametrize("bits", [4, 8])
def test_dequantizing_is_exact_up_to_the_dtype(bits: int, kernels: PackedKernels) -> None:
    layer = layer_of(576, 96, bits, 64, zeros=True)
    meant = layer.dequantize(torch.float32)
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(kernels.dequantize(layer, dtype), meant.to(dtype))


def test_what_does_not_fit_stays_as_it_is(kernels: PackedKernels) -> None:
    layers = nn.ModuleList([layer_of(64, 8, 2, 32, False), layer_of(64, 8, 4, 32, False).cpu()])
    assert use_kernels(layers, kernels) == 0
    assert {type(layer) for layer in layers} == {QuantizedLinear}


def test_gradients_pass_through(kernels: PackedKernels) -> None:
    layer = layer_of(128, 96, 4, 32, zeros=True)
    exact = layer.dequantize(torch.float32)
    use_kernels(nn.ModuleList([layer]), kernels)
    x = torch.randn(3, 128, device="cuda", dtype=torch.float16, requires_grad=True)
    layer(x).float().sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad.float(), exact.sum(0).expand(3, -1), rtol=1e-2, atol=1e-2)
