"""Products on the tensor cores against plain torch; skipped where there is no card."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from modules.engine.worker.kernels.product import Norm, ProductKernels, Rope
from modules.engine.worker.kernels.rows import Places
from modules.engine.worker.kernels.tiles import Tiles
from tests.engine.kernels.layers import quantized

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA card"),
]

ROWS = (1, 2, 7, 8, 9, 16, 17, 32, 50)
FORMS = [
    (4, 128, False, torch.float16),
    (4, 64, True, torch.bfloat16),
    (4, 32, True, torch.float16),
    (4, -1, False, torch.bfloat16),
    (8, 128, False, torch.float16),
    (8, 32, True, torch.bfloat16),
]
EPS = 1e-5


def tiles(inputs: int, outputs: int, bits: int, group: int, zeros: bool) -> tuple[Tiles, Tensor]:
    """Weights on the card, and what they stand for in float64."""
    layer = quantized(inputs, outputs, bits, group, zeros).cuda()
    return Tiles.of([layer]), layer.dequantize(torch.float32).double()


def off(got: Tensor, meant: Tensor) -> float:
    return float((got.double() - meant.double()).norm() / meant.double().norm())


def tolerance(dtype: torch.dtype) -> float:
    return 6e-3 if dtype == torch.bfloat16 else 1e-3


def kernels_of(dtype: torch.dtype) -> ProductKernels:
    return ProductKernels(torch.device("cuda", 0), dtype)


@pytest.mark.parametrize(("bits", "group", "zeros", "dtype"), FORMS)
def test_the_product_is_that_of_plain_torch(
    bits: int, group: int, zeros: bool, dtype: torch.dtype
) -> None:
    kernels = kernels_of(dtype)
    for inputs, outputs in [(64, 16), (576, 960), (1536, 576), (4096, 48), (11008, 64)]:
        group_size = inputs if inputs % 128 and group == 128 else group
        weight, exact = tiles(inputs, outputs, bits, group_size, zeros)
        for rows in ROWS:
            x = torch.randn(rows, inputs, device="cuda", dtype=dtype)
            y = torch.full((rows, outputs), torch.nan, device="cuda", dtype=dtype)
            kernels.multiply(weight, x, y)
            assert off(y, x.double() @ exact.t()) < tolerance(dtype), (inputs, outputs, rows)


@pytest.mark.parametrize(("bits", "group", "zeros", "dtype"), FORMS[:4])
def test_norm_bias_and_addition_are_those_of_plain_torch(
    bits: int, group: int, zeros: bool, dtype: torch.dtype
) -> None:
    kernels = kernels_of(dtype)
    weight, exact = tiles(512, 96, bits, group, zeros)
    gamma = torch.rand(512, device="cuda", dtype=dtype) + 0.5
    bias = torch.randn(96, device="cuda", dtype=dtype)
    for rows in (1, 2, 7, 8):
        # Rows of very different size: each is brought to length 1 by itself.
        size = torch.logspace(-3, 2, rows, device="cuda")[:, None]
        x = (torch.randn(rows, 512, device="cuda") * size).to(dtype)
        before = torch.randn(rows, 96, device="cuda", dtype=dtype)
        y = before.clone()
        kernels.multiply(weight, x, y, bias=bias, norm=Norm(gamma, EPS), epilogue="add")
        normed = functional.rms_norm(x.double(), (512,), gamma.double(), EPS)
        meant = normed @ exact.t() + bias.double()
        assert off(y.double() - before, meant) < 2 * tolerance(dtype), rows


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_gate_is_that_of_plain_torch(dtype: torch.dtype) -> None:
    kernels = kernels_of(dtype)
    weight, exact = tiles(256, 192, 4, 64, True)
    gate, up = exact.view(-1, 2, 8, 256).unbind(1)
    for rows in ROWS:
        x = torch.randn(rows, 256, device="cuda", dtype=dtype) * 4
        y = torch.full((rows, 96), torch.nan, device="cuda", dtype=dtype)
        kernels.multiply(weight, x, y, epilogue="swiglu")
        made = [x.double() @ half.reshape(96, 256).t() for half in (gate, up)]
        assert off(y, functional.silu(made[0]) * made[1]) < 3 * tolerance(dtype), rows


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(4, 4, 64), (6, 2, 128), (3, 1, 64)])
def test_rope_turns_queries_and_fills_the_cache(
    dtype: torch.dtype, heads: int, kv_heads: int, dim: int
) -> None:
    kernels = kernels_of(dtype)
    outputs = (heads + 2 * kv_heads) * dim
    weight, exact = tiles(256, outputs, 4, 64, False)
    angles = torch.rand(100, dim // 2, device="cuda") * 6
    cos_sin = torch.cat([angles.cos(), angles.sin()], dim=1)
    for rows in ROWS:
        x = torch.randn(rows, 256, device="cuda", dtype=dtype)
        cache = [torch.zeros(8, kv_heads, 16, dim, device="cuda", dtype=dtype) for _ in range(2)]
        slots = torch.randperm(128, device="cuda")[:rows].int()
        slots[rows // 2] = -1
        positions = torch.randint(0, 100, (rows,), device="cuda", dtype=torch.int32)
        y = torch.full((rows, heads * dim), torch.nan, device="cuda", dtype=dtype)
        rope = Rope(Places(cos_sin, positions, slots), cache[0], cache[1], heads)
        kernels.multiply(weight, x, y, epilogue="rope", rope=rope)
        made = (x.double() @ exact.t()).view(rows, -1, dim // 16, 2, 8)
        paired, plain = made[:, : heads + kv_heads], made[:, heads + kv_heads :]
        low, high = paired[..., 0, :].flatten(2), paired[..., 1, :].flatten(2)
        cos, sin = cos_sin[positions.long()].double()[:, None].split(dim // 2, dim=-1)
        turned = torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)
        assert off(y, turned[:, :heads].flatten(1)) < 2 * tolerance(dtype), rows
        for meant, stored in ((turned[:, heads:], cache[0]), (plain.flatten(2), cache[1])):
            expected = torch.zeros(128, kv_heads, dim, device="cuda", dtype=torch.float64)
            written = slots >= 0
            expected[slots[written].long()] = meant[written]
            got = stored.transpose(1, 2).reshape(128, kv_heads, dim)
            if written.any():
                assert off(got, expected) < 2 * tolerance(dtype), rows
            assert not got[expected.abs().sum((1, 2)) == 0].any()


@pytest.mark.parametrize(("bits", "group", "zeros", "dtype"), FORMS)
def test_dequantizing_is_exact_up_to_the_dtype(
    bits: int, group: int, zeros: bool, dtype: torch.dtype
) -> None:
    weight, exact = tiles(576, 96, bits, 64 if group == 128 else group, zeros)
    got = kernels_of(dtype).dequantize(weight)
    assert torch.equal(got, exact.float().to(dtype))
