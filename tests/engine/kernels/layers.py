"""Quantized layers of random weights."""

from __future__ import annotations

import torch

from modules.loader.quantization.linear import QuantizedLinear

__all__ = ["quantized"]


def quantized(
    inputs: int, outputs: int, bits: int, group: int = 64, zeros: bool = False
) -> QuantizedLinear:
    """A layer on the processor, the same for the same arguments."""
    made = torch.Generator().manual_seed(inputs + outputs + bits)
    layer = QuantizedLinear(inputs, outputs, bits=bits, group_size=group)
    layer.perm = None
    layer.zeros = layer.zeros if zeros else None
    layer.weight.data = torch.randint(0, 256, layer.weight.shape, dtype=torch.uint8, generator=made)
    layer.scales.data = (torch.rand(layer.scales.shape, generator=made) * 0.01).half()
    if layer.zeros is not None:
        layer.zeros.data = (torch.rand(layer.zeros.shape, generator=made) * (2**bits - 1)).half()
    return layer
