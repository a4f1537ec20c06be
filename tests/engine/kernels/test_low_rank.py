"""What LoRAs add to products on the way, against plain torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from modules.engine.worker.kernels.low_rank import (
    LowRankKernels,
    StackedRanks,
    in_lanes,
    shrink_reference,
)
from modules.engine.worker.kernels.product import Norm, ProductKernels
from modules.engine.worker.kernels.tiles import Tiles
from tests.engine.kernels.layers import quantized

on_a_card = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA card"),
]
ROWS = (1, 2, 7, 8, 9, 16, 17, 32, 50)
EPS = 1e-5


def stacked(
    ranks: int, inputs: int, outputs: int, dtype: torch.dtype, device: str
) -> tuple[StackedRanks, Tensor]:
    """Ranks of three adapters, and B [ranks, outputs] as it is."""
    torch.manual_seed(ranks + inputs)
    a, b = (torch.randn(ranks, size, device=device) for size in (inputs, outputs))
    a, b = (a * inputs**-0.5).to(dtype), b.to(dtype)
    owners = torch.randint(0, 3, (ranks,), dtype=torch.int32, device=device)
    return StackedRanks(a, in_lanes(b), owners), b


def off(got: Tensor, meant: Tensor) -> float:
    return float((got.double() - meant.double()).norm() / meant.double().norm())


def test_each_lane_has_its_outputs_and_ranks() -> None:
    b = torch.arange(32.0 * 48).view(32, 48)
    laid = in_lanes(b)
    assert laid.shape == (3, 2, 32, 8)
    for tile, chunk, g, q in ((0, 0, 0, 0), (2, 1, 5, 3), (1, 0, 7, 2)):
        outputs = (16 * tile + g, 16 * tile + g + 8)
        first = 16 * chunk + 2 * q
        meant = [
            float(b[rank, output])
            for ranks in ((first, first + 1), (first + 8, first + 9))
            for output in outputs
            for rank in ranks
        ]
        assert laid[tile, chunk, 4 * g + q].tolist() == meant


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("ranks", "inputs"), [(16, 64), (48, 4096), (256, 576), (768, 11008)])
@pytest.mark.parametrize("normed", [False, True])
class TestOnACard:
    pytestmark = on_a_card

    def test_x_shrinks_to_the_shares_of_its_ranks(
        self, dtype: torch.dtype, ranks: int, inputs: int, normed: bool
    ) -> None:
        found, _ = stacked(ranks, inputs, 16, dtype, "cuda")
        kernels = LowRankKernels(torch.device("cuda", 0), dtype)
        gamma = torch.rand(inputs, device="cuda", dtype=dtype) + 0.5
        norm = Norm(gamma, EPS) if normed else None
        for rows in ROWS:
            x = torch.randn(rows, inputs, device="cuda", dtype=dtype)
            for shares in (torch.randn(rows, 3, device="cuda", dtype=dtype),
                           torch.randn(1, 3, device="cuda", dtype=dtype)):  # fmt: skip
                t = kernels.shrink(x, found, shares, norm).t
                assert off(t, shrink_reference(x, found, shares, norm)) < 1e-2, rows


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("ranks", [16, 48, 272])
class TestProducts:
    pytestmark = on_a_card

    def test_a_product_adds_what_loras_make(self, dtype: torch.dtype, ranks: int) -> None:
        device = torch.device("cuda", 0)
        kernels, low_rank = ProductKernels(device, dtype), LowRankKernels(device, dtype)
        tolerance = 6e-3 if dtype == torch.bfloat16 else 1e-3
        for inputs, outputs in [(64, 16), (576, 960), (4096, 48), (11008, 64)]:
            layer = quantized(inputs, outputs, 4, 32, True).cuda()
            weight, exact = Tiles.of([layer]), layer.dequantize(torch.float32).double()
            found, b = stacked(ranks, inputs, outputs, dtype, "cuda")
            gamma = torch.rand(inputs, device="cuda", dtype=dtype) + 0.5
            for rows in ROWS:
                x = torch.randn(rows, inputs, device="cuda", dtype=dtype)
                shares = torch.randn(rows, 3, device="cuda", dtype=dtype)
                norm = Norm(gamma, EPS) if kernels.norms(weight, rows) else None
                added = low_rank.shrink(x, found, shares, norm)
                y = torch.full((rows, outputs), torch.nan, device="cuda", dtype=dtype)
                kernels.multiply(weight, x, y, norm=norm, low_rank=added)
                given = x.double()
                if norm is not None:
                    given = functional.rms_norm(given, (inputs,), gamma.double(), EPS)
                t = shrink_reference(x, found, shares, norm)
                meant = given @ exact.t() + t.double() @ b.double()
                assert off(y, meant) < 3 * tolerance, (inputs, outputs, rows)

    def test_the_gate_comes_after_them(self, dtype: torch.dtype, ranks: int) -> None:
        device = torch.device("cuda", 0)
        kernels, low_rank = ProductKernels(device, dtype), LowRankKernels(device, dtype)
        layer = quantized(256, 192, 4, 64, True).cuda()
        weight, exact = Tiles.of([layer]), layer.dequantize(torch.float32).double()
        found, b = stacked(ranks, 256, 192, dtype, "cuda")
        for rows in ROWS:
            x = torch.randn(rows, 256, device="cuda", dtype=dtype)
            shares = torch.randn(rows, 3, device="cuda", dtype=dtype)
            y = torch.full((rows, 96), torch.nan, device="cuda", dtype=dtype)
            added = low_rank.shrink(x, found, shares)
            kernels.multiply(weight, x, y, epilogue="swiglu", low_rank=added)
            t = shrink_reference(x, found, shares, None)
            made = x.double() @ exact.t() + t.double() @ b.double()
            gate, up = made.view(rows, -1, 2, 8).unbind(2)
            meant = (functional.silu(gate) * up).flatten(1)
            assert off(y, meant) < (2e-2 if dtype == torch.bfloat16 else 3e-3), rows
