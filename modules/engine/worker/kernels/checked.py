"""The kernels for packed weights, and for LoRAs over them, if they compute what they should.

If not, one warning says so, and plain torch takes their place.
"""

from __future__ import annotations

import logging

import torch
from transformers import PreTrainedModel

from modules.engine.worker.kernels.low_rank import (
    CHUNK,
    LowRankKernels,
    StackedRanks,
    in_lanes,
    shrink_reference,
)
from modules.engine.worker.kernels.product import Norm, ProductKernels
from modules.engine.worker.kernels.tiles import Tiles
from modules.loader.quantization.linear import QuantizedLinear

__all__ = ["low_rank_kernels", "product_kernels"]

log = logging.getLogger(__name__)

_OFF = 0.02
"""What a product may be off from its reference, relative; rounding is a tenth of that."""


def product_kernels(model: PreTrainedModel) -> ProductKernels | None:
    """The kernels for packed weights, after a look whether they compute what they should."""
    packed = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    layer = next((m for m in packed if m.weight.is_cuda and Tiles.fits(m)), None)
    dtype = model.dtype
    if layer is None or dtype not in (torch.float16, torch.bfloat16):
        return None
    if torch.cuda.get_device_capability(layer.weight.device) < (8, 0):
        log.warning("The card is older than the kernels are for, so replies are slower.")
        return None
    try:
        kernels = ProductKernels(layer.weight.device, dtype)
        off = _off(kernels, layer)
    except (RuntimeError, OSError) as error:
        log.warning("The kernel `product` cannot be used, so replies are slow: %s", error)
        return None
    if not off < _OFF:
        log.warning("The kernel `product` is off by %.1e and is not used; replies are slow.", off)
        return None
    return kernels


def _off(kernels: ProductKernels, layer: QuantizedLinear) -> float:
    """How far the product with a real layer is from plain torch, relative."""
    made = torch.Generator(layer.weight.device).manual_seed(0)
    tiles = Tiles.of([layer])
    found = []
    for rows in (1, 9):
        x = torch.randn(rows, layer.in_features, generator=made, device=layer.weight.device).to(
            kernels.dtype
        )
        y = kernels.multiply(tiles, x, x.new_empty(rows, layer.out_features)).float()
        meant = x.float() @ tiles.dequantize(torch.float32).t()
        found.append((y - meant).norm() / meant.norm())
    return float(torch.stack(found).max())  # which passes NaN on


def low_rank_kernels(kernels: ProductKernels, tiles: Tiles) -> LowRankKernels | None:
    """The kernels for LoRAs over products in tiles, after a look at what they add to one."""
    made = LowRankKernels(kernels.device, kernels.dtype)
    try:
        off = _off_with_ranks(kernels, tiles, made)
    except (RuntimeError, OSError) as error:
        log.warning("The kernel `shrink` cannot be used, so LoRAs are slow: %s", error)
        return None
    if not off < _OFF:
        log.warning("The kernel `shrink` is off by %.1e and is not used; LoRAs are slow.", off)
        return None
    return made


@torch.inference_mode()
def _off_with_ranks(kernels: ProductKernels, tiles: Tiles, made: LowRankKernels) -> float:
    """How far what LoRAs make of a product of ones is from plain torch, relative."""
    drawn = torch.Generator(kernels.device).manual_seed(0)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=drawn, device=kernels.device).to(kernels.dtype)

    a, b = (
        some(2 * CHUNK, tiles.in_features) * tiles.in_features**-0.5,
        some(2 * CHUNK, tiles.out_features),
    )
    owners = torch.arange(2 * CHUNK, device=kernels.device, dtype=torch.int32) % 2
    ranks = StackedRanks(a, in_lanes(b), owners)
    found = []
    for rows in (1, 9):
        x, shares = some(rows, tiles.in_features), some(rows, 2)
        norm = None
        if kernels.norms(tiles, rows):
            norm = Norm(some(tiles.in_features), 1e-5)
        bare, full = (x.new_empty(rows, tiles.out_features) for _ in range(2))
        kernels.multiply(tiles, x, bare, norm=norm)
        kernels.multiply(tiles, x, full, norm=norm, low_rank=made.shrink(x, ranks, shares, norm))
        meant = shrink_reference(x, ranks, shares, norm).float() @ b.float()
        # What is rounded away of the sum is no fault of theirs.
        off = (full.float() - bare.float() - meant).norm()
        found.append(off / (full.float().norm() + meant.norm()))
    return float(torch.stack(found).max())
