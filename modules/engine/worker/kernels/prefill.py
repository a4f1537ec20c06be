"""Attention of a chunk of one prompt over what is cached of it, by torch's own kernels."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right

from modules.engine.worker.kernels.cache_blocks import Blocks, gathered

__all__ = ["attend_chunk"]


def attend_chunk(q: Tensor, keys: Blocks, values: Blocks, blocks: Tensor, length: int) -> Tensor:
    """[rows, heads, head_dim] of the last rows of a sequence of `length` tokens.

    q is [rows, heads, head_dim]; `keys` and `values` [all blocks, kv_heads, 16, head_dim] hold the
    whole sequence in `blocks` int64 [n]. Row i attends to the tokens up to itself. The blocks are
    copied into one piece first, in the dtype of q.
    """
    rows, heads, dim = q.shape
    take = partial(_taken, blocks, length)
    k, v = (gathered(cache, take, q.dtype) for cache in (keys, values))
    attended: Tensor = functional.scaled_dot_product_attention(
        q.transpose(0, 1)[None],
        k,
        v,
        attn_mask=_mask(rows, length, q.device),
        is_causal=rows == length and rows > 1,
        scale=1 / math.sqrt(dim),
        enable_gqa=heads != keys.shape[1],
    )
    return attended[0].transpose(0, 1)


def _taken(blocks: Tensor, length: int, cache: Tensor) -> Tensor:
    """[1, kv_heads, length, n] of a cache [blocks, kv_heads, 16, n]."""
    found = cache.transpose(0, 1).index_select(1, blocks)
    return found.view(1, cache.shape[1], -1, cache.shape[3])[:, :, :length]


def _mask(rows: int, length: int, device: torch.device) -> Tensor | None:
    if rows in (1, length):
        return None
    if device.type == "cuda":
        return causal_lower_right(rows, length)
    whole = torch.ones(rows, length, dtype=torch.bool, device=device)
    return whole.tril(diagonal=length - rows)
