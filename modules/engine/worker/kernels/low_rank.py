"""`LowRankKernels`: what LoRAs add to a product on the tensor cores, on the way.

A small kernel (shrink.cu) makes t = x Aᵀ for all ranks, times the share that each row takes of
the adapter whose rank it is; the product itself adds t Bᵀ before what stands after it
(product.cu), as 16 inputs more for each 16 ranks. So a layer with LoRAs is nine kernels, where it
is five without.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from modules.engine.worker.kernels.launch import Kernel
from modules.engine.worker.kernels.product import LowRank, Norm

__all__ = ["CHUNK", "LowRankKernels", "StackedRanks", "in_lanes", "shrink_reference"]

CHUNK = 16
"""Ranks that the tensor cores take at once: there are as many or a multiple."""

_SOURCE = Path(__file__).with_name("shrink.cu")
_THREADS = 256
_ROWS = 4
_EIGHT = 8


@dataclass(frozen=True, slots=True, eq=False)
class StackedRanks:
    """The ranks of some adapters over one product.

    `a` [ranks, in] and `b`, by `in_lanes`, are in the dtype of the kernels; `owners` int32 [ranks]
    says of which adapter each rank is. There are a multiple of CHUNK.
    """

    a: Tensor
    b: Tensor
    owners: Tensor


def in_lanes(b: Tensor) -> Tensor:
    """B [ranks, out] as the lanes of the tensor cores want it: [out / 16, ranks / 16, 32, 8].

    Lane 4 g + q has the outputs g and g + 8 of 16, and of 16 ranks 2 q, 2 q + 1 and both 8 on.
    """
    ranks, outputs = b.shape
    laid = b.t().reshape(outputs // 16, 2, 8, ranks // CHUNK, 2, 4, 2)
    return laid.permute(0, 3, 2, 5, 4, 1, 6).reshape(outputs // 16, ranks // CHUNK, 32, 8)


def shrink_reference(x: Tensor, ranks: StackedRanks, shares: Tensor, norm: Norm | None) -> Tensor:
    """t [rows, ranks] of x [rows, in]; `shares` is [rows, adapters], or [1, adapters] for all."""
    if norm is not None:
        x = functional.rms_norm(x.float(), norm.weight.shape, norm.weight.float(), norm.eps)
    t = functional.linear(x.float(), ranks.a.float()) * shares.float()[:, ranks.owners.long()]
    return t.to(ranks.a.dtype)


class LowRankKernels:
    """The kernel that makes t, of one card and one dtype, compiled when it is first wanted."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        self._compiled: dict[tuple[int, bool, int], Kernel] = {}

    def shrink(
        self, x: Tensor, ranks: StackedRanks, shares: Tensor, norm: Norm | None = None
    ) -> LowRank:
        """What a product of x takes; see `shrink_reference`."""
        rows, inputs = x.shape
        count = len(ranks.a)
        t = torch.empty(rows, count, dtype=self._dtype, device=self._device)
        at_once = min(rows, _ROWS)
        kernel = self._kernel(-(-inputs // (_EIGHT * _THREADS)), norm is not None, at_once)
        gamma, eps = (x, 0.0) if norm is None else (norm.weight, norm.eps)
        pitch = 0 if len(shares) == 1 else shares.stride(0)
        kernel.launch(
            (count, -(-rows // at_once), 1),
            _THREADS,
            *(ranks.a, ranks.owners, shares, x, gamma, t),
            *(inputs, count, rows, pitch, float(eps)),
        )
        return LowRank(t, ranks.b)

    def _kernel(self, chunks: int, normed: bool, rows: int) -> Kernel:
        key = (chunks, normed, rows)
        if key not in self._compiled:
            defines = {"CHUNKS": chunks, "NORM": int(normed), "ROWS": rows, "THREADS": _THREADS}
            defines["BFLOAT"] = int(self._dtype == torch.bfloat16)
            source = _SOURCE.read_text(encoding="utf-8")
            self._compiled[key] = Kernel(source, "shrink", self._device, defines)
        return self._compiled[key]
