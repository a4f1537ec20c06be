"""Weights that came out of a 4-bit file are 4-bit still: their codes are found again.

A GGUF file of the type Q4_0 or Q4_1 (and mostly Q4_K) has sixteen evenly spaced levels for each
32 weights. Unpacked to 16 or 32 bits, the weights still lie on these levels, but for rounding:
those of the starter, in bfloat16, within 0.044 of a step. So a processor can have the speed of
4 bits without any loss of quantizing anew.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modules.loader.quantization.linear import QuantizedLinear
from modules.loader.quantization.packing import pack

__all__ = ["GROUP", "on_grid"]

GROUP = 32
_STEPS = 15
_FEWEST_STEPS = 7
"""Not every group reaches both ends of its range. One with fewer steps could do so by chance."""
_NEAR = 0.08
_TRIED = 8
_SLICE = 2**18  # weights; what of them lies in the processor's own memory
_LEAST = 1e-7


def on_grid(layer: nn.Linear) -> QuantizedLinear | None:
    """The same layer in 4 bits, or None where its weights are not on sixteen levels a group.

    Its zero points are between the levels. What is not on such levels is known by its first rows.
    """
    weight = layer.weight.data
    if weight.shape[1] % GROUP or not weight.is_floating_point():
        return None
    if _codes(weight[:_TRIED]) is None:
        return None
    found = []
    for part in torch.split(weight, max(1, _SLICE // weight.shape[1])):
        if (of_part := _codes(part)) is None:
            return None
        found.append(of_part)
    packed = QuantizedLinear(layer.in_features, layer.out_features, bits=4, group_size=GROUP)
    codes, scales, zeros = (torch.cat(parts) for parts in zip(*found, strict=True))
    packed.weight = nn.Parameter(codes, requires_grad=False)
    packed.scales = nn.Parameter(scales, requires_grad=False)
    packed.zeros = nn.Parameter(zeros, requires_grad=False)
    packed.perm, packed.bias = None, layer.bias
    return packed


def _codes(weight: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Packed codes [out, in / 2], and scales and zero points float32 [out, groups]."""
    grouped = weight.float().view(len(weight), -1, GROUP)
    low, high = grouped.amin(-1, keepdim=True), grouped.amax(-1, keepdim=True)
    step, codes, off = _at(grouped, low, high, _STEPS)
    for steps in range(_STEPS - 1, _FEWEST_STEPS - 1, -1):
        bad = (off > _NEAR)[..., None]
        if not bad.any():
            break
        tried_step, tried, tried_off = _at(grouped, low, high, steps)
        step, codes = torch.where(bad, tried_step, step), torch.where(bad, tried, codes)
        off = torch.where(bad[..., 0], tried_off, off)
    if (off > _NEAR).any():
        return None
    step, low = _fitted(grouped, codes, step)
    return pack(codes.to(torch.uint8).flatten(1), 4), step[..., 0], (-low / step)[..., 0]


def _at(grouped: Tensor, low: Tensor, high: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Step, codes and the largest distance from a level [out, groups], if there are `steps`."""
    step = ((high - low) / steps).clamp_(min=_LEAST)
    exact = (grouped - low) / step
    codes = exact.round()
    return step, codes, (exact - codes).abs_().amax(-1)


def _fitted(grouped: Tensor, codes: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """The step and the level of code 0 with the least squared error, as the ends are rounded."""
    centred = codes - codes.mean(-1, keepdim=True)
    spread = centred.square().sum(-1, keepdim=True)
    slope = (centred * grouped).sum(-1, keepdim=True) / spread.clamp(min=1)
    step = torch.where(spread > 0, slope.clamp(min=_LEAST), step)
    return step, (grouped - codes * step).mean(-1, keepdim=True)
