"""`ProductKernels`: products with packed weights on the tensor cores, for one to 64 rows.

What stands before and after a product in a Llama layer is computed on the way, so that a layer
of a decode step is five kernels: the norm of x before it (of the queries, keys and values, and of
gate and up), and after it the addition to the residual, the gate, or the rotary embedding with
the write into the cache. benchmarks/product_kernel.py measures; RESULTS.md has its figures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from modules.engine.worker.kernels.launch import Kernel
from modules.engine.worker.kernels.rows import Places
from modules.engine.worker.kernels.tiles import Tiles

__all__ = ["MOST_ROWS", "LowRank", "Norm", "ProductKernels", "Rope"]

MOST_ROWS = 64
"""Rows beyond which dequantizing and a dense product are faster."""

_SOURCE = Path(__file__).with_name("product.cu")
_AT_ONCE = 32
_NORM_ROWS = 8
_STATIC = 2048  # bytes of shared memory that a block has besides
_SHARED = 228 * 1024  # of a processor of an H100
_OUTPUTS_AT_ONCE = 132 * 32  # if each of its processors takes 32
_EPILOGUES = {"plain": 0, "add": 1, "swiglu": 2, "rope": 3}

Epilogue = Literal["plain", "add", "swiglu", "rope"]


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """x is normalised before the product: x / rms(x) * weight [in], as RMSNorm does."""

    weight: Tensor
    eps: float


@dataclass(frozen=True, slots=True, eq=False)
class Rope:
    """What the queries, keys and values of rows become, and where they go.

    `keys` and `values` [blocks, kv_heads, 16, head_dim] are the cache, and `heads` the number of
    query heads.
    """

    places: Places
    keys: Tensor
    values: Tensor
    heads: int


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """What LoRAs add to a product: t Bᵀ, with `t` [rows, ranks], and `b` as low_rank.py lays it."""

    t: Tensor
    b: Tensor


class _Around(NamedTuple):
    """What is computed before and after a product."""

    bias: Tensor | None
    norm: Norm | None
    epilogue: Epilogue
    rope: Rope | None
    low_rank: LowRank | None


@dataclass(frozen=True, slots=True)
class _Shape:
    """How a block divides its work: see product.cu."""

    row_tiles: int
    along_n: int
    along_k: int
    depth: int
    per_processor: int

    @staticmethod
    def of(rows: int, weight: Tiles) -> _Shape:
        """What was fastest on an H100; see benchmarks/RESULTS.md."""
        if rows <= 8:
            x = 2 * rows * weight.in_features
            twice = _Shape(1, 1, 16, 4, 2)
            if weight.out_features <= _OUTPUTS_AT_ONCE:
                return _Shape(1, 2, 16, 4 if rows <= 4 else 3, 1)
            if 2 * (twice.shared(weight) + x + _STATIC) <= _SHARED:
                return twice
            return _Shape(1, 1, 16, 4, 1) if x <= _SHARED // 3 else _Shape(1, 2, 16, 3, 1)
        if rows <= 16:
            return _Shape(2, 2, 16, 4, 1)
        return _Shape(4, 1, 8, 4, 2)

    def shared(self, weight: Tiles) -> int:
        """Bytes of shared memory of a block, without x."""
        scales = (1 + (weight.group_size == 32)) * (1 + (weight.zeros is not None))
        stage = weight.bits * 128 + scales * 128
        warps = self.along_n * self.along_k
        return warps * (self.depth * stage + 2 * self.row_tiles * 512)


_Variant = tuple[_Shape, bool, bool, Epilogue, bool, bool, int]
"""How the work is divided, whether x is shared and normalised, the epilogue, whether there is a
bias and whether there are LoRAs, and the size of a head where the epilogue needs it."""


@dataclass(frozen=True, slots=True, eq=False)
class _Way:
    """A launch: the kernel, its grid, the threads of a block and its shared memory in bytes."""

    kernel: Kernel
    grid: tuple[int, int, int]
    threads: int
    shared: int


@dataclass(slots=True, eq=False)
class ProductKernels:
    """The kernels of one card for x of one dtype, compiled when they are first wanted."""

    device: torch.device
    dtype: torch.dtype
    shape_of: Callable[[int, Tiles], _Shape] = _Shape.of
    _compiled: dict[tuple[int, bool, int, _Variant | None], Kernel] = field(default_factory=dict)
    _ways: dict[tuple[object, ...], _Way] = field(default_factory=dict)
    _processors: int = field(init=False)
    _shared: int = field(init=False)

    def __post_init__(self) -> None:
        about: Any = torch.cuda.get_device_properties(self.device)
        self._processors = about.multi_processor_count
        self._shared = about.shared_memory_per_block_optin - _STATIC

    def multiply(
        self,
        weight: Tiles,
        x: Tensor,
        y: Tensor,
        *,
        bias: Tensor | None = None,
        norm: Norm | None = None,
        epilogue: Epilogue = "plain",
        rope: Rope | None = None,
        low_rank: LowRank | None = None,
    ) -> Tensor:
        """x [rows, in] times W into y, for 1 to 64 rows; with `norm` where `norms` allows it.

        y is [rows, out] for plain and add (which adds to what is there), [rows, out / 2] for
        swiglu, and the queries [rows, heads * head_dim] for rope.
        """
        around = _Around(bias, norm, epilogue, rope, low_rank)
        count = x.shape[0]
        if count <= _AT_ONCE:
            self._multiply(weight, x, y, slice(None), around)
            return y
        for first in range(0, count, _AT_ONCE):
            rows = slice(first, first + _AT_ONCE)
            self._multiply(weight, x[rows], y[rows], rows, around)
        return y

    def _multiply(self, weight: Tiles, x: Tensor, y: Tensor, rows: slice, around: _Around) -> None:
        """Some `rows` of a product."""
        bias, norm, epilogue, rope, low_rank = around
        count = x.shape[0]
        head_dim = 0 if rope is None else rope.keys.shape[-1]
        without = (norm is None, bias is None, low_rank is None)
        asked = (self.shape_of, weight, count, without, epilogue, head_dim)
        way = self._ways.get(asked)
        if way is None:
            way = self._ways[asked] = self._way(weight, x, around)
        none = weight.scales
        gamma, eps = (none, 0.0) if norm is None else (norm.weight, norm.eps)
        turned: tuple[Tensor, ...] = (none,) * 5
        heads = kv_heads = 0
        if rope is not None:
            at = rope.places
            turned = (at.cos_sin, at.positions[rows], at.slots[rows], rope.keys, rope.values)
            heads, kv_heads = rope.heads, rope.keys.shape[1]
        t, b, chunks = none, none, 0
        if low_rank is not None:
            t, b, chunks = low_rank.t[rows], low_rank.b, low_rank.b.shape[1]
        way.kernel.launch(
            way.grid,
            way.threads,
            *weight.pointers,
            none if bias is None else bias,
            x,
            gamma,
            y,
            *turned,
            t,
            b,
            *weight.sizes,
            count,
            heads,
            kv_heads,
            chunks,
            float(eps),
            shared=way.shared,
        )

    def _way(self, weight: Tiles, x: Tensor, around: _Around) -> _Way:
        """How to launch a product. Looked up for every later one alike: computing it takes longer
        than a launch, and a prompt has hundreds of them. Raises ValueError for a norm that x is
        too large for."""
        bias, norm, epilogue, rope, low_rank = around
        shape = self._fitting(x.shape[0], weight)
        shared = shape.shared(weight)
        shared_x = shared + x.nbytes <= self._shared
        if norm is not None and not shared_x:
            raise ValueError("x is too large to be normalised on the way.")
        head_dim = 0 if rope is None else rope.keys.shape[-1]
        given = (bias is not None, low_rank is not None)
        blocks = -(-weight.out_features // (16 * shape.along_n))
        return _Way(
            self._product(weight, (shape, shared_x, norm is not None, epilogue, *given, head_dim)),
            (min(blocks, self._processors * shape.per_processor), 1, 1),
            32 * shape.along_n * shape.along_k,
            shared + (x.nbytes if shared_x else 0),
        )

    def norms(self, weight: Tiles, rows: int) -> bool:
        """Whether x of so many rows can be normalised on the way: every block holds all of it."""
        shared = self._fitting(rows, weight).shared(weight) + 2 * rows * weight.in_features
        return rows <= _NORM_ROWS and shared <= self._shared

    def _fitting(self, rows: int, weight: Tiles) -> _Shape:
        """With a shorter ring where the card has less shared memory."""
        shape = self.shape_of(rows, weight)
        while shape.shared(weight) > self._shared and shape.depth > 1:
            shape = replace(shape, depth=shape.depth - 1)
        return shape

    def dequantize(self, weight: Tiles, out: Tensor | None = None) -> Tensor:
        """W [out, in] in the dtype of the kernels, written to `out` where it is given.

        That may be the first columns of something wider, whose rows are a multiple of 8 apart.
        """
        if out is None:
            shape = (weight.out_features, weight.in_features)
            out = torch.empty(shape, dtype=self.dtype, device=self.device)
        key = (*weight.form, None)
        kernel = self._compiled.get(key)
        if kernel is None:
            unused = dict.fromkeys(("SHARED_X", "NORM", "EPILOGUE", "BIAS", "LORA", "HEAD_DIM"), 0)
            unused |= dict.fromkeys(("NT", "WN", "WK", "DEPTH"), 1)
            kernel = self._compiled[key] = self._kernel("dequantize", weight, unused)
        tiles = weight.codes.shape[0] * weight.codes.shape[1]
        sizes = (*weight.sizes, out.stride(0))
        kernel.launch((-(-tiles // 8), 1, 1), 256, *weight.pointers, out, *sizes)
        return out

    def _product(self, weight: Tiles, variant: _Variant) -> Kernel:
        key = (*weight.form, variant)
        found = self._compiled.get(key)
        if found is None:
            shape, shared_x, normed, epilogue, biased, adapted, head_dim = variant
            defines = {
                "NT": shape.row_tiles,
                "WN": shape.along_n,
                "WK": shape.along_k,
                "DEPTH": shape.depth,
                "SHARED_X": int(shared_x),
                "NORM": int(normed),
                "EPILOGUE": _EPILOGUES[epilogue],
                "BIAS": int(biased),
                "LORA": int(adapted),
                "HEAD_DIM": head_dim,
            }
            found = self._compiled[key] = self._kernel("product", weight, defines)
        return found

    def _kernel(self, name: str, weight: Tiles, defines: dict[str, int]) -> Kernel:
        bits, zeros, group_tiles = weight.form
        about = {"BITS": bits, "ZEROS": int(zeros), "GROUP_TILES": group_tiles}
        about["BFLOAT"] = int(self.dtype == torch.bfloat16)
        return Kernel(_SOURCE.read_text(encoding="utf-8"), name, self.device, about | defines)
