"""`Blocks`: the keys or the values of one layer in the paged cache, in 16 bits or in 8.

In 8 bits each token of each key head has a scale of its own (symmetric, as llama.cpp's q8_0 has
for every 32 numbers):

    x ~ code * scale,   scale = max |x| / 127,   code = round(x / scale)

What is rounded are the numbers that a 16-bit cache would hold. benchmarks/cache_quality.py
measures what it costs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Blocks", "Int8Blocks", "dequantize", "gathered", "quantize", "tensors_of", "write"]

_TOP = 127
_LEAST_SCALE = 2.0**-60
"""Of a token whose numbers are all 0; its inverse is finite. LEAST_SCALE in rows.cu."""


@dataclass(frozen=True, slots=True, eq=False)
class Int8Blocks:
    """`codes` int8 [blocks, kv_heads, 16, head_dim], `scales` float32 [blocks, kv_heads, 16]."""

    codes: Tensor
    scales: Tensor

    @property
    def shape(self) -> torch.Size:
        """That of the numbers."""
        return self.codes.shape


Blocks = Tensor | Int8Blocks
"""[blocks, kv_heads, 16, head_dim]: a tensor in the dtype of the model, or 8 bits."""


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """int8 codes [..., head_dim] and float32 scales [...] of x [..., head_dim]."""
    wide = x.float()
    scales = (wide.abs().amax(-1) * (1 / _TOP)).clamp_(min=_LEAST_SCALE)
    codes = (wide * scales.reciprocal()[..., None]).round_().clamp_(-_TOP, _TOP)
    return codes.to(torch.int8), scales


def dequantize(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """codes * scales[..., None], computed in float32 and rounded once."""
    out = torch.empty(codes.shape, dtype=dtype, device=codes.device)
    return torch.mul(codes, scales[..., None], out=out)


def write(cache: Blocks, blocks: Tensor, offsets: Tensor, x: Tensor) -> None:
    """Put x [rows, kv_heads, head_dim] at the offsets [rows] of blocks [rows]."""
    if isinstance(cache, Tensor):
        cache[blocks, :, offsets] = x
        return
    codes, scales = quantize(x)
    cache.codes[blocks, :, offsets] = codes
    cache.scales[blocks, :, offsets] = scales


def gathered(cache: Blocks, gather: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Tensor:
    """What `gather` takes out of [blocks, kv_heads, 16, n], for any n, without changing n.

    Of 8-bit blocks the numbers in `dtype`, a new tensor; of others what `gather` gives.
    """
    if isinstance(cache, Tensor):
        return gather(cache)
    scales = gather(cache.scales[..., None]).squeeze(-1)
    return dequantize(gather(cache.codes), scales, dtype)


def tensors_of(keys: Blocks, values: Blocks) -> tuple[Tensor, ...]:
    """What kernels are given: keys and values, or in 8 bits both codes and then both scales.

    Raises TypeError where one is in 8 bits and the other is not.
    """
    if isinstance(keys, Tensor) and isinstance(values, Tensor):
        return keys, values
    if isinstance(keys, Int8Blocks) and isinstance(values, Int8Blocks):
        return keys.codes, values.codes, keys.scales, values.scales
    raise TypeError("Keys and values are stored differently.")
