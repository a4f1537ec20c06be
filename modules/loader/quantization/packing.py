"""Integer codes, packed: the one form that layers hold, and the forms that checkpoints have.

In memory, a row of codes is one little-endian stream of bits in input order: two 4-bit codes
a byte, the earlier one in the low half; eight 3-bit codes in three bytes. GPTQ packs the same
stream into int32 columns, so that reading it is a transposition. AWQ ("GEMM") packs eight
output features into an int32 in an order of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["awq_codes", "gptq_rows", "pack", "unpack"]

# Output feature j of eight lies in nibble _AWQ_NIBBLE[j] (AutoAWQ packs 0 2 4 6 1 3 5 7).
_AWQ_NIBBLE = (0, 4, 1, 5, 2, 6, 3, 7)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes [..., n] (uint8, below 2^bits) to bytes [..., n * bits / 8]; n a multiple of 8."""
    if bits == 8:
        return codes.contiguous()
    if bits == 3:
        words = (_split(codes, 8).int() << _eight_threes(codes.device)).sum(-1, dtype=torch.int32)
        three: Tensor = _split(words.view(torch.uint8), 4)[..., :3].flatten(-2)
        return three
    parts = _split(codes, 8 // bits).unbind(-1)
    packed = parts[0].clone()
    for place, part in enumerate(parts[1:], start=1):
        packed |= part << (place * bits)
    return packed


def unpack(packed: Tensor, bits: int) -> Tensor:
    """Bytes [..., m] (uint8) to codes [..., m * 8 / bits] (uint8): the inverse of `pack`."""
    if bits == 8:
        return packed
    if bits == 3:
        low, middle, high = _split(packed, 3).int().unbind(-1)
        words = low | middle << 8 | high << 16
        eight: Tensor = words[..., None] >> _eight_threes(packed.device) & 7
        return eight.to(torch.uint8).flatten(-2)
    mask = (1 << bits) - 1
    parts = [packed >> shift & mask for shift in range(0, 8, bits)]
    return torch.stack(parts, dim=-1).flatten(-2)


def gptq_rows(packed: Tensor) -> Tensor:
    """GPTQ's `qweight` (int32 [in * bits / 32, out]) to rows (uint8 [out, in * bits / 8])."""
    return packed.t().contiguous().view(torch.uint8)


def awq_codes(packed: Tensor) -> Tensor:
    """AWQ's `qweight` or `qzeros` (int32 [n, out / 8]) to codes (uint8 [n, out])."""
    nibbles = _split(unpack(packed.contiguous().view(torch.uint8), 4), 8)
    return nibbles[..., list(_AWQ_NIBBLE)].flatten(-2)


def _split(tensor: Tensor, size: int) -> Tensor:
    """[..., n] as [..., n / size, size]."""
    return tensor.reshape(*tensor.shape[:-1], -1, size)


def _eight_threes(device: torch.device) -> Tensor:
    return torch.arange(0, 24, 3, device=device, dtype=torch.int32)
