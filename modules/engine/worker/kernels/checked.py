"""`product_kernels`: the kernels for packed weights, if they compute what they should.

If not, one warning says so, and plain torch takes their place.
"""

from __future__ import annotations

import logging

import torch
from transformers import PreTrainedModel

from modules.engine.worker.kernels.product import ProductKernels
from modules.engine.worker.kernels.tiles import Tiles
from modules.loader.quantization.linear import QuantizedLinear

__all__ = ["product_kernels"]

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
