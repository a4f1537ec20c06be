"""`DecodeAttention`: attention of single tokens over the paged cache, on a card.

`keys` and `values` of a layer are [blocks, kv_heads, 16, head_dim]; row r attends to the first
lengths[r] tokens of the blocks that tables[r] names:

    out[r, h] = sum over t of softmax_t(scale * q[r, h] . k[t]) * v[t]

Several blocks of threads share the tokens of a row, and the last of them to finish merges what
they found (split-KV, "Flash-Decoding", pytorch.org/blog/flash-decoding). A cache in 8 bits is half
the bytes to read; its codes are multiplied as they are, and scales come in beside the softmax. The
reference, `attend_reference`, is what the processor runs. benchmarks/attention_kernel.py measures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from modules.engine.worker.kernels.cache_blocks import Blocks, gathered, tensors_of
from modules.engine.worker.kernels.launch import Kernel

__all__ = ["DecodeAttention", "attend_places", "attend_reference", "row_places"]

_SOURCE = Path(__file__).with_name("attention.cu")
_BLOCK = 16
_HEADS = 8  # query heads that a block of threads computes at most; HEADS in attention.cu
_SHARES = 32  # of a row at most, as in attention.cu
_PROCESSORS = 132  # of an H100
_FILLING = 0.7  # of the card that one round of blocks has to fill
_MOST_GROUPED = 16


class DecodeAttention:
    """The kernel for one shape of heads, and its workspace for up to `rows` rows.

    With `int8` it is for a cache in 8 bits, and for no other.

    Raises RuntimeError or OSError where the kernel cannot be compiled.
    """

    def __init__(
        self,
        heads: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        rows: int,
        int8: bool = False,
    ) -> None:
        self._int8 = int8
        defines = {"DIM": head_dim, "BFLOAT": int(dtype == torch.bfloat16), "CACHE8": int(int8)}
        source = _SOURCE.read_text(encoding="utf-8")
        self._most_warps = 16 if head_dim <= 128 else 8  # of a processor, for want of registers
        self._kernels = {
            warps: Kernel(source, "attention", device, defines | {"WARPS": warps})
            for warps in (16, 8, 4)
            if warps <= self._most_warps
        }
        self._heads, self._kv_heads, self._head_dim = heads, kv_heads, head_dim
        self._rows = rows
        self._parts = math.ceil(heads / kv_heads / _HEADS)
        shares = max(count * self._divided(count).shares for count in range(1, rows + 1))
        self._partial = torch.empty(shares * heads, head_dim, device=device)
        self._totals = torch.empty(shares * heads, 2, device=device)
        self._arrived = torch.zeros(rows * kv_heads * self._parts, dtype=torch.int32, device=device)

    @staticmethod
    def fits(
        heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> bool:
        """Whether there is a kernel for this shape on this device."""
        return (
            device.type == "cuda"
            and torch.cuda.get_device_capability(device) >= (8, 0)
            and dtype in (torch.float16, torch.bfloat16)
            and head_dim % 32 == 0
            and head_dim <= 256
            and heads % kv_heads == 0
            and heads // kv_heads <= _MOST_GROUPED
        )

    def __call__(
        self,
        q: Tensor,
        keys: Blocks,
        values: Blocks,
        tables: Tensor,
        lengths: Tensor,
        out: Tensor | None = None,
    ) -> Tensor:
        """Attend with q [rows, heads, head_dim], and return the same shape, in `out` if given.

        `tables` is int32 [rows, blocks of a row at most], `lengths` int32 [rows]; a row of
        length 0 gives zeros. Every tensor is contiguous. The scale is 1 / sqrt(head_dim). How the
        work is shared depends on the number of rows and each row's own length alone, so a row's
        result does not depend on what the others hold. `lengths` and `tables` are read before the
        kernel launched before this one has ended, so it must not write them. Raises ValueError
        where there are more rows than there is workspace for, and TypeError for a cache that it
        is not for.
        """
        rows = len(q)
        if rows > self._rows:
            raise ValueError(f"{rows} rows, and workspace for {self._rows}.")
        caches = tensors_of(keys, values)
        if self._int8 != (len(caches) == 4):
            raise TypeError("The kernel was compiled for a cache of another kind.")
        out = torch.empty_like(q) if out is None else out
        way = self._divided(rows)
        grid = (self._kv_heads * self._parts, rows, way.shares)
        tensors = (q, *caches, tables, lengths, out)
        workspace = (self._partial, self._totals, self._arrived)
        sizes = (tables.shape[1], self._heads, self._kv_heads, self._parts, way.least)
        scale = math.log2(math.e) / math.sqrt(self._head_dim)  # the kernel takes powers of two
        each = -(-self._heads // (self._kv_heads * self._parts))
        shared = way.warps * each * self._head_dim * 4
        kernel = self._kernels[way.warps]
        kernel.launch(grid, way.warps * 32, *tensors, *workspace, *sizes, scale, shared=shared)
        return out

    def _divided(self, rows: int) -> _Division:
        """How the work of so many rows is divided.

        In the largest blocks of threads of which one round fills most of the card: they read
        a long stretch without another to merge with, and merging costs as much as reading 500
        tokens. Where few rows would leave the card idle, each is divided; where they fill it,
        only a long row is, for one long chat beside short ones would otherwise be read by a few
        of the card's processors.
        """
        items = rows * self._kv_heads * self._parts
        for warps in self._kernels:
            places = _PROCESSORS * self._most_warps // warps
            shares = min(places // items, _SHARES)
            if shares == _SHARES or shares * items >= _FILLING * places:
                return _Division(warps, *((shares, 24) if shares > 1 else (2, 128)))
        return _Division(4, 2, 64)


@dataclass(frozen=True, slots=True)
class _Division:
    """Warps of a block of threads, shares of a row at most, and cache blocks of one at least."""

    warps: int
    shares: int
    least: int


def attend_reference(
    q: Tensor, keys: Blocks, values: Blocks, tables: Tensor, lengths: Tensor, scale: float
) -> Tensor:
    """What `DecodeAttention` computes, in plain torch, for any dtype and device."""
    places = row_places(tables, lengths, keys.shape[1])
    return attend_places(q, keys, values, places, scale)


def row_places(tables: Tensor, lengths: Tensor, kv_heads: int) -> list[tuple[int, Tensor]]:
    """For every row its length, and where its blocks lie: the indices block * kv_heads + head
    of keys.view(blocks * kv_heads, ...), a key head after the other.

    They are the same for every layer of a step, and for a short context take a third of the
    time of `attend_places`.
    """
    heads = torch.arange(kv_heads, device=tables.device)[:, None]
    return [
        (length, (table[: -(-length // _BLOCK)] * kv_heads + heads).flatten())
        for table, length in zip(tables, lengths.tolist(), strict=True)
    ]


def attend_places(
    q: Tensor, keys: Blocks, values: Blocks, places: list[tuple[int, Tensor]], scale: float
) -> Tensor:
    """`attend_reference` for rows whose places are known.

    The query heads of a key head are passed as queries of one sequence, so that nothing is
    repeated for them, and each row's blocks are copied once.
    """
    heads, dim = q.shape[1:]
    kv_heads = keys.shape[1]
    found = []
    for row, (length, at) in zip(q, places, strict=True):
        if length == 0:
            found.append(torch.zeros_like(row))
            continue
        take = partial(_taken, at, length)
        k, v = (gathered(cache, take, q.dtype) for cache in (keys, values))
        grouped = row.view(1, kv_heads, -1, dim)
        attended = functional.scaled_dot_product_attention(grouped, k, v, scale=scale)
        found.append(attended.reshape(heads, dim))
    return found[0][None] if len(found) == 1 else torch.stack(found)


def _taken(at: Tensor, length: int, cache: Tensor) -> Tensor:
    """[1, kv_heads, length, n] of a cache [blocks, kv_heads, 16, n]."""
    kv_heads, width = cache.shape[1], cache.shape[3]
    flat = cache.view(-1, _BLOCK * width).index_select(0, at)
    return flat.view(1, kv_heads, -1, width)[:, :, :length]
