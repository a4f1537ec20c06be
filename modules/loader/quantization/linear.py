"""`QuantizedLinear`: a linear layer that holds its weights packed, whatever they came from.

GPTQ, AWQ and what is quantized while it is read all become this layer, whose forward is plain
torch and runs on every device. Faster products are subclasses: they take over the tensors of a
layer (`AtenInt4Linear`, the engine's kernels) and keep its interface.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from modules.loader.quantization.packing import unpack

__all__ = ["QuantizedLinear"]


class QuantizedLinear(nn.Module):
    """y = x Wᵀ + bias with W[o, i] = (code[o, i] - zero[o, g]) * scale[o, g], g = i // group_size.

    The inputs are taken in the order of `perm` where there is one (GPTQ's act-order: sorted
    by group, so that each group is contiguous). A new layer has room for every tensor; whoever
    fills it sets to None what would say nothing. All are parameters without a gradient, so
    that device maps, offloading and state dicts treat them as weights:

    - `weight` uint8 [out_features, in_features * bits / 8], codes as `packing` describes them
    - `scales` [out_features, groups], float16 unless the checkpoint has them otherwise
    - `zeros` [out_features, groups], or None where every zero point is 2^(bits-1)
    - `perm` int32 [in_features], or None where the inputs are in order
    - `bias` [out_features], or None
    """

    weight: Tensor
    scales: Tensor
    zeros: Tensor | None
    perm: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bits: int,
        group_size: int,
        bias: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.bits = bits
        self.group_size = in_features if group_size == -1 else group_size
        groups = math.ceil(in_features / self.group_size)
        self.weight = _frozen(torch.empty(out_features, in_features * bits // 8, dtype=torch.uint8))
        self.scales = _frozen(torch.empty(out_features, groups, dtype=torch.float16))
        self.zeros = _frozen(torch.empty_like(self.scales))
        self.perm = _frozen(torch.empty(in_features, dtype=torch.int32))
        self.bias = _frozen(torch.empty(out_features, dtype=dtype)) if bias else None

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """W [out_features, in_features] in `dtype`, the inputs in the caller's order."""
        weight = self._ordered(dtype)
        if self.perm is None:
            return weight
        return torch.empty_like(weight).index_copy_(1, self.perm.long(), weight)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in_features] to [..., out_features], in the dtype of x."""
        if torch.is_grad_enabled() and x.requires_grad:
            product: Tensor = _Differentiable.apply(x, self)  # type: ignore[no-untyped-call]
        else:
            product = self._product(x)
        return product if self.bias is None else product + self.bias.to(x.dtype)

    def extra_repr(self) -> str:
        """What print(model) says of the layer."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bits={self.bits}, group_size={self.group_size}, bias={self.bias is not None}"
        )

    def _product(self, x: Tensor) -> Tensor:
        if self.perm is not None:
            x = x.index_select(-1, self.perm)
        return functional.linear(x, self._ordered(x.dtype))

    def _ordered(self, dtype: torch.dtype) -> Tensor:
        """W in `dtype`, the inputs in the order of the groups."""
        # A bfloat16 scale would be an eighth as exact as the float16 one of the checkpoint.
        exact = torch.promote_types(self.scales.dtype, dtype)
        codes = unpack(self.weight, self.bits).to(exact)
        scales = self._per_input(self.scales.to(exact))
        zeros: Tensor | int = 1 << (self.bits - 1)
        if self.zeros is not None:
            zeros = self._per_input(self.zeros.to(exact))
        grouped = codes.view(*scales.shape[:2], -1) if scales.dim() == 3 else codes
        return grouped.sub_(zeros).mul_(scales).view(codes.shape).to(dtype)

    def _per_input(self, per_group: Tensor) -> Tensor:
        """[out, groups] made to fit codes: [out, groups, 1], or [out, in] if the last is short."""
        if self.in_features % self.group_size == 0:
            return per_group[..., None]
        return per_group.repeat_interleave(self.group_size, dim=1)[:, : self.in_features]


class _Differentiable(torch.autograd.Function):
    """The product, and its gradient in x, without keeping the dequantized weights for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return layer._product(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        return grad @ ctx.layer.dequantize(grad.dtype), None


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
