"""In which order the outputs of fused products are, where kernels want both halves in a lane.

An order is the list of natural output numbers, in the order in which they are computed; see
`HeadShape` and `swiglu_reference` in kernels/rows.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modules.engine.worker.kernels.rows import HeadShape

__all__ = ["gate_up_order", "qkv_order"]


def qkv_order(heads: HeadShape) -> Tensor:
    """int64 [(heads + 2 kv_heads) * head_dim]: queries and keys in pairs, values as they are."""
    dim = heads.head_dim
    within = torch.arange(dim).view(2, -1, 8).transpose(0, 1).flatten()
    turned = (heads.heads + heads.kv_heads) * dim
    paired = torch.arange(0, turned, dim)[:, None] + within
    return torch.cat([paired.flatten(), torch.arange(turned, turned + heads.kv_heads * dim)])


def gate_up_order(middle: int) -> Tensor:
    """int64 [2 * middle]: eight of gate, then the same eight of up."""
    return torch.arange(2 * middle).view(2, -1, 8).transpose(0, 1).flatten()
