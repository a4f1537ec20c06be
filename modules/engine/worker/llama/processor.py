"""Products and norms of the fast runner on the processor.

`Int4Product` and `Int8Product` multiply bfloat16 rows with packed weights through the 4-bit
product that ATen has for the processor, several layers as one product along their outputs;
`DenseProduct` is the plain one; `ProcessorRows` is `TorchRows` with a norm of fewer calls.

Two cores of an AVX-512 server (Zen 4), microseconds for 1, 16 and 128 rows through the fused gate
and up of a 135M model, 3072 x 576: float32 601 / 805 / 2880, bfloat16 215 / 329 / 1187, 4-bit
51 / 338 / 2659. ATen's own 8-bit product (_weight_int8pack_mm) takes 117 / 542 / 3225, and knows
one scale a row alone; two 4-bit products take 103, with groups.

What it costs that model, whose weights came out of a Q4_1 file, over 1536 tokens of prose against
float32: 4-bit products of its own codes change the perplexity by +0.03 %, the logits by 1.0 %, and
the likeliest token at 1.0 % of places, where two were within 0.1; with the head in 8 bits and
groups of 32 it is +0.06 %, 1.4 % and 1.6 %. Products in bfloat16 cost as much (-0.04 %, 0.9 %,
1.6 %). One 8-bit scale a row changes the logits by 3.5 %, and 8-bit rows of x, which fbgemm's
product wants, by 7.6 %; new 4-bit codes for the head cost 4.4 % of perplexity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from modules.engine.worker.kernels.rows import TorchRows, rms_norm_reference
from modules.loader.quantization.aten import AtenInt4Linear
from modules.loader.quantization.linear import QuantizedLinear

__all__ = ["DenseProduct", "Int4Product", "Int8Product", "ProcessorRows"]

_TOP = 127
_LEAST_SCALE = 2.0**-60
_GROUPS = (32, 64, 128, 256)
_LEAST_OUTPUTS = 64
_BLOCK = 64
"""Outputs that ATen packs together with AVX-512; with AVX2 it is half of that."""
_SLICE = 2**22
_FEW_ROWS = 8


class DenseProduct:
    """y = x Wᵀ + bias with W [out, in] as it is; float32 or bfloat16, whatever x is."""

    paired = False

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.out_features, self.in_features = weight.shape
        self.weight = weight
        self.bias = bias if bias is None else bias.to(weight.dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """x [rows, in] to [rows, out], in the dtype of x."""
        return functional.linear(x.to(self.weight.dtype), self.weight, self.bias).to(x.dtype)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """W in `dtype`."""
        return self.weight.to(dtype)


class Int4Product:
    """y = x Wᵀ + bias with 4-bit codes, by torch.ops.aten._weight_int4pack_mm_for_cpu.

    W[o, i] = (code[o, i] - 8) * pairs[g, o, 0] + pairs[g, o, 1], g = i // group_size. `packed`
    uint8 [out, in / 2] is in an order that depends on the processor, `pairs` bfloat16
    [groups, out, 2], `perm` the order in which the inputs are taken. x and y are rounded to
    bfloat16.
    """

    paired = False

    def __init__(
        self,
        packed: Tensor,
        pairs: Tensor,
        *,
        perm: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> None:
        self.out_features, self.in_features = packed.shape[0], 2 * packed.shape[1]
        self.group_size = self.in_features // pairs.shape[0]
        self.packed, self.pairs, self.perm = packed, pairs, perm
        self.bias = bias

    @staticmethod
    def joins(layers: Sequence[nn.Module]) -> bool:
        """Whether `layers`, which have the same input, can become one product."""
        found = [layer for layer in layers if isinstance(layer, AtenInt4Linear)]
        return len(found) == len(layers) and all(
            layer.group_size == found[0].group_size
            and (layer is found[-1] or layer.out_features % _BLOCK == 0)
            and _same(layer.perm, found[0].perm)
            for layer in found
        )

    @classmethod
    def joined(cls, layers: Sequence[AtenInt4Linear]) -> Int4Product:
        """One product of layers that join; they are left with views of its codes."""
        packed = torch.cat([layer.weight.data for layer in layers])
        pairs = torch.cat([layer.scales.data for layer in layers], dim=1)
        sizes = [layer.out_features for layer in layers]
        for layer, part in zip(layers, torch.split(packed, sizes), strict=True):
            layer.weight = nn.Parameter(part, requires_grad=False)
        perm = layers[0].perm
        return cls(
            packed,
            pairs,
            perm=None if perm is None else perm.long(),
            bias=_biases(layers),
        )

    def __call__(self, x: Tensor) -> Tensor:
        """x [rows, in] to [rows, out], in the dtype of x."""
        if self.perm is not None:
            x = x.index_select(-1, self.perm)
        product = self._multiply(_rounded(x))
        return _finished(product, x.dtype, self.bias)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """W in `dtype`, the inputs in the caller's order."""
        # Only ATen knows its order; the product with unit vectors asks it.
        units = torch.eye(self.in_features, dtype=torch.bfloat16)
        weight = self._multiply(units).t().to(dtype)
        if self.perm is None:
            return weight
        return torch.empty_like(weight).index_copy_(1, self.perm, weight)

    def _multiply(self, x: Tensor) -> Tensor:
        product: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu.default(
            x, self.packed, self.group_size, self.pairs
        )
        return product


class Int8Product:
    """y = x Wᵀ + bias with 8-bit codes, as two products with 4-bit codes.

    W[o, i] = (code[o, i] - zero[o, g]) * scale[o, g] with code = 16 high + low, so that
    W = (high - 8) * 16 scale + (136 - zero) * scale + (low - 8) * scale. `halves` computes the
    outputs of the high and then those of the low half of each code.
    """

    paired = False

    def __init__(self, halves: Int4Product, bias: Tensor | None = None) -> None:
        self.out_features, self.in_features = halves.out_features // 2, halves.in_features
        self.halves, self.bias = halves, bias

    @staticmethod
    def joins(layers: Sequence[nn.Module]) -> bool:
        """Whether `layers`, which have the same input, can become one product."""
        found = [layer for layer in layers if isinstance(layer, QuantizedLinear)]
        return len(found) == len(layers) and all(
            type(layer) is QuantizedLinear
            and layer.bits == 8
            and layer.group_size == found[0].group_size
            and layer.group_size in _GROUPS
            and layer.in_features % layer.group_size == 0
            and layer.out_features % _LEAST_OUTPUTS == 0
            and layer.weight.device.type == "cpu"
            and _same(layer.perm, found[0].perm)
            for layer in found
        )

    @classmethod
    def joined(cls, layers: Sequence[QuantizedLinear]) -> Int8Product:
        """One product of layers that join; their own tensors are not needed any more."""
        codes = torch.cat([layer.weight.data for layer in layers])
        scales = torch.cat([layer.scales.data.float() for layer in layers])
        zeros = torch.cat([_zeros(layer) for layer in layers])
        return cls(_halves(codes, scales, zeros, layers[0].perm), _biases(layers))

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None = None, group_size: int = 32) -> Int8Product:
        """Round W [out, in] to 255 levels in each group of inputs.

        With groups of 32, that is what a Q8_0 file holds. Sizes are multiples of 16 and of the
        group.
        """
        # The codes are made for the scale as it will be stored.
        grouped = weight.view(len(weight), -1, group_size)
        scales = (grouped.abs().amax(-1).float() / _TOP).clamp_(min=_LEAST_SCALE).bfloat16().float()
        codes = torch.empty(weight.shape, dtype=torch.uint8)
        rows = max(1, _SLICE // weight.shape[1])
        parts = (torch.split(tensor, rows) for tensor in (codes, grouped, scales))
        for into, part, scale in zip(*parts, strict=True):
            whole = (part / scale[..., None]).round_().clamp_(-_TOP, _TOP) + 128
            into.copy_(whole.flatten(1))
        zeros = torch.full_like(scales, 128.0)
        return cls(_halves(codes, scales, zeros, None), None if bias is None else bias.float())

    def __call__(self, x: Tensor) -> Tensor:
        """x [rows, in] to [rows, out], in the dtype of x."""
        high, low = torch.chunk(self.halves(x), 2, dim=-1)
        product = high + low
        return product if self.bias is None else product.add_(self.bias)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """W in `dtype`, the inputs in the caller's order."""
        high, low = torch.chunk(self.halves.dequantize(torch.float32), 2)
        return (high + low).to(dtype)


class ProcessorRows(TorchRows):
    """`TorchRows` for states of one width in float32, with cheaper norms of a few rows.

    x / hypot(|x|, sqrt(n eps)) * sqrt(n) * weight is the same number as `rms_norm_reference`, in
    four calls where torch makes six: 5 us in the place of 10 for a row of 576.
    """

    def __init__(self, hidden: int, eps: float) -> None:
        self._hidden, self._eps = hidden, eps
        self._floor = torch.tensor(math.sqrt(hidden * eps))
        self._root = math.sqrt(hidden)
        self._zero = torch.zeros(1)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `rms_norm_reference`."""
        few = len(x) <= _FEW_ROWS and x.dtype == torch.float32
        if not few or eps != self._eps or x.shape[-1] != self._hidden:
            return rms_norm_reference(x, weight, eps)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        floored = torch.hypot(length, self._floor)
        return torch.addcdiv(self._zero, x, floored, value=self._root).mul_(weight)

    def add_rms_norm(self, h: Tensor, delta: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `add_rms_norm_reference`."""
        return self.rms_norm(h.add_(delta), weight, eps)


def _rounded(x: Tensor) -> Tensor:
    """x in bfloat16 and contiguous."""
    return x.bfloat16().contiguous()


def _finished(product: Tensor, dtype: torch.dtype, bias: Tensor | None) -> Tensor:
    # float() is half as dear as to(dtype).
    product = product.float() if dtype == torch.float32 else product.to(dtype)
    return product if bias is None else product.add_(bias)


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return torch.equal(a, b)


def _biases(layers: Sequence[QuantizedLinear]) -> Tensor | None:
    if all(layer.bias is None for layer in layers):
        return None
    return torch.cat(
        [
            torch.zeros(layer.out_features) if layer.bias is None else layer.bias.data.float()
            for layer in layers
        ]
    )


def _halves(codes: Tensor, scales: Tensor, zeros: Tensor, perm: Tensor | None) -> Int4Product:
    high, low = _packed(codes >> 4), _packed(codes & 15)
    large = torch.stack([16 * scales, (136 - zeros) * scales], dim=-1)
    small = torch.stack([scales, torch.zeros_like(scales)], dim=-1)
    pairs = torch.cat([large, small]).transpose(0, 1).to(torch.bfloat16).contiguous()
    return Int4Product(torch.cat([high, low]), pairs, perm=None if perm is None else perm.long())


def _zeros(layer: QuantizedLinear) -> Tensor:
    if layer.zeros is None:
        return torch.full(layer.scales.shape, 128.0)
    return layer.zeros.data.float()


def _packed(codes: Tensor) -> Tensor:
    packed: Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int(), 1)
    return packed
