"""`RowKernels` and `TorchRows`: what a Llama layer computes row by row between its products.

Both have the methods of `Rows`: norms, the rotary embedding with the write into the cache, and
the gate. `RowKernels` runs them on a card (rows.cu), each as one pass over memory; `TorchRows` in
plain torch, which is the reference and what the processor runs. Numbers are rounded where
transformers rounds them, except that the rotary embedding is rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from modules.engine.worker.kernels.cache_blocks import Blocks, tensors_of, write
from modules.engine.worker.kernels.launch import Kernel

__all__ = [
    "HeadShape",
    "Places",
    "RowKernels",
    "Rows",
    "TorchRows",
    "add_rms_norm_reference",
    "rms_norm_reference",
    "rope_into_cache_reference",
    "swiglu_reference",
]

_SOURCE = Path(__file__).with_name("rows.cu")
_BLOCK = 16  # tokens of a cache block
_EIGHT = 8  # numbers that a thread reads at once
_MOST_CHUNKS = 4
_MOST_THREADS = 1024
_THREADS = 128


@dataclass(frozen=True, slots=True, eq=False)
class HeadShape:
    """What the outputs of a layer's fused product of queries, keys and values are.

    A row of them is heads * head_dim queries, then as many keys as kv_heads * head_dim, then
    values. `paired`: tile t of 16 of each query and key head has dimensions 8t to 8t + 7 and then
    head_dim / 2 + 8t and on; values are in their own order always. `q_norm` and `k_norm`
    [head_dim] are the weights of Qwen 3's norms over a head, with `eps`.
    """

    heads: int
    kv_heads: int
    head_dim: int
    paired: bool = False
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None
    eps: float = 1e-6


@dataclass(frozen=True, eq=False)
class Places:
    """Where the rows of one step stand.

    `cos_sin` is float32 [positions, head_dim]: cosines, then sines, both times the factor of the
    rope. `positions` and `slots` are int32 [rows]: the place in the sequence, and that in the
    cache, block * 16 + offset. A padding row has slot -1, and any position.

    What plain torch needs of them is computed once, so another step needs another object there.
    """

    cos_sin: Tensor
    positions: Tensor
    slots: Tensor

    @cached_property
    def turns(self) -> tuple[Tensor, Tensor]:
        """Factors [rows, 1, head_dim] of x, and of x with its halves exchanged."""
        positions = self.positions if self.padding is None else self.positions * ~self.padding
        cosines, sines = self.cos_sin.index_select(0, positions)[:, None].chunk(2, -1)
        return torch.cat((cosines, cosines), -1), torch.cat((-sines, sines), -1)

    @cached_property
    def padding(self) -> Tensor | None:
        """Which rows are padding [rows], or None where no row is."""
        padding = self.slots < 0
        return padding if padding.any() else None

    @cached_property
    def written(self) -> tuple[Tensor, Tensor]:
        """Blocks and offsets of the rows that are no padding."""
        slots = self.slots if self.padding is None else self.slots[~self.padding]
        return slots.long() // _BLOCK, slots.long() % _BLOCK


class Rows(Protocol):
    """What the model asks of the rows of a step; all tensors are contiguous."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `rms_norm_reference`."""
        ...

    def add_rms_norm(self, h: Tensor, delta: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `add_rms_norm_reference`."""
        ...

    def rope_into_cache(
        self, qkv: Tensor, shape: HeadShape, places: Places, keys: Blocks, values: Blocks
    ) -> Tensor:
        """See `rope_into_cache_reference`."""
        ...

    def swiglu(self, gate_up: Tensor, paired: bool) -> Tensor:
        """See `swiglu_reference`."""
        ...


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, as LlamaRMSNorm computes it:
    in float32, rounded before the weight and after (github.com/huggingface/transformers).
    """
    if x.dtype == torch.float32:
        return functional.rms_norm(x, weight.shape, weight, eps)
    return functional.rms_norm(x.float(), weight.shape, None, eps).to(x.dtype) * weight


def add_rms_norm_reference(h: Tensor, delta: Tensor, weight: Tensor, eps: float) -> Tensor:
    """h += delta in place, and the norm of the result."""
    return rms_norm_reference(h.add_(delta), weight, eps)


def rope_into_cache_reference(
    qkv: Tensor, shape: HeadShape, places: Places, keys: Blocks, values: Blocks
) -> Tensor:
    """Queries [rows, heads, head_dim], turned; keys, turned, and values go into the cache.

    With x1 and x2 the halves of a head, x1' = x1 cos - x2 sin and x2' = x2 cos + x1 sin
    (RoFormer, arxiv.org/abs/2104.09864, in the order of Llama's checkpoints), computed in float32
    and rounded once; what goes into a cache of 8 bits is rounded again to its codes. `qkv` is
    [rows, (heads + 2 kv_heads) * head_dim], `keys` and `values` [blocks, kv_heads, 16, head_dim],
    both in 8 bits or neither. Queries are in their natural order, and zeros for padding.
    """
    rows, turning = len(qkv), shape.heads + shape.kv_heads
    split = qkv.view(rows, turning + shape.kv_heads, shape.head_dim)
    both, v = split[:, :turning], split[:, turning:]
    if shape.paired:
        tiles = both.reshape(rows, turning, -1, 2, _EIGHT)
        both = tiles.transpose(2, 3).reshape(rows, turning, shape.head_dim)
    if shape.q_norm is not None and shape.k_norm is not None:
        q = rms_norm_reference(both[:, : shape.heads], shape.q_norm, shape.eps)
        k = rms_norm_reference(both[:, shape.heads :], shape.k_norm, shape.eps)
        both = torch.cat((q, k), 1)
    cosines, sines = places.turns
    wide = both.float()
    turned = (wide * cosines).addcmul_(wide.roll(shape.head_dim // 2, -1), sines).to(qkv.dtype)
    q, k = turned[:, : shape.heads], turned[:, shape.heads :]
    if places.padding is not None:
        k, v = k[~places.padding], v[~places.padding]
        q = q.masked_fill(places.padding[:, None, None], 0)
    blocks, offsets = places.written
    write(keys, blocks, offsets, k)
    write(values, blocks, offsets, v)
    return q.contiguous()


def swiglu_reference(gate_up: Tensor, paired: bool) -> Tensor:
    """silu(gate) * up [rows, middle], silu rounded before the product as LlamaMLP does.

    `gate_up` [rows, 2 * middle] is gate, then up; or where `paired`, tile t of 16 has gate 8t to
    8t + 7 and then up 8t to 8t + 7.
    """
    if paired:
        gate, up = gate_up.view(len(gate_up), -1, 2, _EIGHT).unbind(2)
        return (functional.silu(gate) * up).view(len(gate_up), -1)
    gate, up = gate_up.chunk(2, -1)
    return functional.silu(gate).mul_(up)


class TorchRows:
    """`Rows` in plain torch, for any dtype and device."""

    rms_norm = staticmethod(rms_norm_reference)
    add_rms_norm = staticmethod(add_rms_norm_reference)
    rope_into_cache = staticmethod(rope_into_cache_reference)
    swiglu = staticmethod(swiglu_reference)


class RowKernels:
    """`Rows` on a card, for one dtype; a kernel is compiled when it is first wanted.

    Methods raise RuntimeError or OSError where a kernel cannot be compiled.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._bfloat = int(dtype == torch.bfloat16)
        self._device = device
        self._compiled: dict[tuple[str, tuple[tuple[str, int], ...]], Kernel] = {}

    @staticmethod
    def fits(
        hidden: int, middle: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> bool:
        """Whether the kernels serve a model of these sizes on this device."""
        return (
            device.type == "cuda"
            and torch.cuda.get_device_capability(device) >= (8, 0)
            and dtype in (torch.float16, torch.bfloat16)
            and hidden % _EIGHT == 0
            and hidden <= _EIGHT * _MOST_CHUNKS * _MOST_THREADS
            and middle % _EIGHT == 0
            and head_dim % (2 * _EIGHT) == 0
            and head_dim <= 512
        )

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `rms_norm_reference`."""
        return self._normalize(x, x, weight, eps, added=0)

    def add_rms_norm(self, h: Tensor, delta: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `add_rms_norm_reference`."""
        return self._normalize(h, delta, weight, eps, added=1)

    def rope_into_cache(
        self, qkv: Tensor, shape: HeadShape, places: Places, keys: Blocks, values: Blocks
    ) -> Tensor:
        """See `rope_into_cache_reference`."""
        rows, dim = len(qkv), shape.head_dim
        lanes = 1 << (dim // (2 * _EIGHT) - 1).bit_length()
        normed = shape.q_norm is not None and shape.k_norm is not None
        caches = tensors_of(keys, values)
        kernel = self._kernel(
            "rope_into_cache",
            DIM=dim,
            LANES=lanes,
            PAIRED=int(shape.paired),
            NORMED=int(normed),
            CACHE8=int(len(caches) == 4),
        )
        q = torch.empty(rows, shape.heads, dim, dtype=qkv.dtype, device=qkv.device)
        # A kernel wants pointers for the weights in any case.
        norms = (qkv if norm is None else norm for norm in (shape.q_norm, shape.k_norm))
        tensors = (qkv, places.cos_sin, places.positions, places.slots, *caches, *norms, q)
        blocks = -(-(shape.heads + 2 * shape.kv_heads) * lanes // _THREADS)
        sizes = (shape.heads, shape.kv_heads)
        kernel.launch((blocks, rows, 1), _THREADS, *tensors, *sizes, float(shape.eps))
        return q

    def swiglu(self, gate_up: Tensor, paired: bool) -> Tensor:
        """See `swiglu_reference`."""
        rows, middle = len(gate_up), gate_up.shape[1] // 2
        y = torch.empty(rows, middle, dtype=gate_up.dtype, device=gate_up.device)
        blocks = -(-middle // (_EIGHT * _THREADS))
        kernel = self._kernel("swiglu", PAIRED=int(paired))
        kernel.launch((blocks, rows, 1), _THREADS, gate_up, y, middle)
        return y

    def _normalize(
        self, x: Tensor, delta: Tensor, weight: Tensor, eps: float, *, added: int
    ) -> Tensor:
        hidden = x.shape[-1]
        eights = hidden // _EIGHT
        chunks = -(-eights // _MOST_THREADS)
        threads = -(-eights // (chunks * 32)) * 32
        y = torch.empty_like(x)
        kernel = self._kernel("normalize", CHUNKS=chunks, ADDED=added)
        grid = (x.numel() // hidden, 1, 1)
        kernel.launch(grid, threads, x, delta, weight, y, hidden, float(eps))
        return y

    def _kernel(self, name: str, **defines: int) -> Kernel:
        key = (name, tuple(sorted(defines.items())))
        if key not in self._compiled:
            source = _SOURCE.read_text(encoding="utf-8")
            defines["BFLOAT"] = self._bfloat
            self._compiled[key] = Kernel(source, name, self._device, defines)
        return self._compiled[key]
