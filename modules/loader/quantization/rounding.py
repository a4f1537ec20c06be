"""16-bit weights to few bits, while they are read: no data to calibrate on, only the weights.

benchmarks/quantization_quality.py compares the methods; RESULTS.md has its figures.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from modules.loader.quantization.checkpoints import Packed
from modules.loader.quantization.format import QuantizationFormat
from modules.loader.quantization.packing import pack

__all__ = ["quantize"]

_LEAST = 2**-24  # the least float16: a group of zeros has no range
_STEPS = 8  # twenty gained nothing more
_SLICE = 2**22  # weights


def quantize(weight: Tensor, form: QuantizationFormat) -> Packed:
    """W [out, in] to 2^bits levels in each group of inputs.

    Symmetric: plain rounding, with the largest weight at the end of the range; what 8 bits
    need. Else half-quadratic, with a zero point between the levels; what 4 bits need.
    """
    # In slices, so that the work takes little memory beside what it makes.
    rows = max(1, _SLICE // weight.shape[1])
    parts = [_quantize(part, form) for part in torch.split(weight, rows)]
    zeros = None if form.symmetric else torch.cat([zeros for _, _, zeros in parts])
    return Packed(
        torch.cat([codes for codes, _, _ in parts]),
        torch.cat([scales for _, scales, _ in parts]),
        zeros,
        None,
    )


def _quantize(weight: Tensor, form: QuantizationFormat) -> tuple[Tensor, Tensor, Tensor]:
    """Packed codes [out, bytes], scales and zero points [out, groups]."""
    size = weight.shape[1] if form.group_size == -1 else form.group_size
    grouped = _grouped(weight.float(), size)
    scales, zeros = (
        _symmetric(grouped, form.bits) if form.symmetric else _fitted(grouped, form.bits)
    )
    codes = _codes(grouped, scales.float(), zeros.float(), form.bits)
    flat = codes.to(torch.uint8).flatten(1)[:, : weight.shape[1]]
    return pack(flat, form.bits), scales[..., 0], zeros[..., 0]


def _grouped(weight: Tensor, size: int) -> Tensor:
    """[out, in] as [out, groups, size]; a short last group is filled with its own last weight."""
    short = -weight.shape[1] % size
    if short:
        weight = functional.pad(weight[None], (0, short), mode="replicate")[0]
    return weight.reshape(len(weight), -1, size)


def _codes(weight: Tensor, scales: Tensor, zeros: Tensor, bits: int) -> Tensor:
    return (weight / scales).add_(zeros).round_().clamp_(0, (1 << bits) - 1)


def _symmetric(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Scales and zero points [out, groups, 1] in float16, as they will be stored."""
    middle = 1 << (bits - 1)
    scales = (weight.abs().amax(-1, keepdim=True) / (middle - 1)).clamp_(min=_LEAST).half()
    return scales, torch.full_like(scales, middle)


def _fitted(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """The scale from the range; the zero point where an l0.7 norm of the error is low.

    Half-quadratic splitting with a shrinkage operator, after HQQ (Badri and Shaji 2023,
    mobiusml.github.io/hqq_blog): the large errors of a few weights are left to them, and the
    others fitted.
    """
    # With 0 in the range, float16 holds the zero point well, whatever the weights are.
    low = weight.amin(-1, keepdim=True).clamp_(max=0)
    high = weight.amax(-1, keepdim=True).clamp_(min=0)
    scales = ((high - low) / ((1 << bits) - 1)).clamp_(min=_LEAST).half()
    exact = scales.float()
    zeros, beta = -low / exact, 10.0
    for _ in range(_STEPS):
        codes = _codes(weight, exact, zeros, bits)
        error = weight - (codes - zeros) * exact
        size = error.abs()
        size = (size - size.clamp(min=1e-8).pow_(-0.3) / beta).clamp_(min=0)
        zeros = (codes - (weight - size * error.sign()) / exact).mean(-1, keepdim=True)
        beta *= 1.01
    return scales, zeros.half()
