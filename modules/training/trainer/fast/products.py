"""Products of frozen weights with a LoRA, forward and backward, without a pass of their own.

y = x Wᵀ + s (x Aᵀ) Bᵀ is one product [x, x Aᵀ] [W, s B]ᵀ, if x has room for a few columns behind
it and W does too. Its gradient is another, [dy, s dy B] [W; A], with A in rows below W. So beside
the two large products of a layer without a LoRA, a LoRA costs four narrow ones that read x or dy
once each (x Aᵀ, dy B, and the gradients of A and B), and nothing that reads y. Projections with
the same x are one product; their LoRAs have columns of their own, with zeros between.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modules.engine.worker.kernels.tiled_linear import dequantize_into
from modules.loader.quantization.linear import QuantizedLinear

__all__ = ["DenseProduct", "Lora", "PackedProduct", "Part", "Product"]

_COLUMNS = 8
"""What the columns for LoRAs are a multiple of, so that each row stays aligned."""
_PITCH = 64
"""What the distance between rows is a multiple of: 128 bytes in 16 bits."""


@dataclass(frozen=True, slots=True, eq=False)
class Lora:
    """The LoRA of one projection: A [r, in], B [out, r] and the factor before their product."""

    a: nn.Parameter
    b: nn.Parameter
    scaling: float

    @property
    def rank(self) -> int:
        """r."""
        return self.a.shape[0]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One projection: its linear layer, and its LoRA if it has one."""

    layer: Any
    lora: Lora | None


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """Where the LoRA of a projection lies in a product: its outputs, and its columns."""

    lora: Lora
    outputs: slice
    columns: slice


class Product(ABC):
    """The product of one or more projections with the same input.

    `a` [columns, inputs] has every A, and `b` [outputs, columns] every s B, in the dtype of the
    weights, as `refresh` found them; `loras` are those of the projections that have one.
    """

    def __init__(self, parts: Sequence[Part], dtype: torch.dtype, device: torch.device) -> None:
        self.inputs: int = parts[0].layer.in_features
        self.dtype, self.device = dtype, device
        self.loras: list[Lora] = []
        self._places: list[_Place] = []
        self.outputs = rank = 0
        for part in parts:
            end = self.outputs + part.layer.out_features
            if part.lora is not None:
                columns = slice(rank, rank + part.lora.rank)
                self._places.append(_Place(part.lora, slice(self.outputs, end), columns))
                self.loras.append(part.lora)
                rank = columns.stop
            self.outputs = end
        self.columns = _up(rank, _COLUMNS)
        self._bias = _biases([part.layer for part in parts], dtype)
        self.a = self.b = torch.empty(0)

    def refresh(self) -> None:
        """Take the LoRAs as they are now, after a step of the optimizer."""
        for place in self._places:
            self.a[place.columns].copy_(place.lora.a.detach())
            into = self.b[place.outputs, place.columns]
            torch.mul(place.lora.b.detach(), place.lora.scaling, out=into)

    def room(self, rows: int) -> Tensor:
        """For x and what the LoRAs take of it, [rows, inputs + columns], still to be filled."""
        return self._room(rows, self.inputs + self.columns)

    def room_for_gradient(self, rows: int) -> Tensor:
        """For dy and what the LoRAs take of it, [rows, outputs + columns]."""
        return self._room(rows, self.outputs + self.columns)

    def narrow(self, x: Tensor) -> Tensor:
        """What the LoRAs take of x: x Aᵀ [rows, columns]."""
        return x[:, : self.inputs] @ self.a.t()

    def gradients(self, dy: Tensor, x: Tensor, narrow: Tensor) -> list[Tensor]:
        """Of A and B of each LoRA in turn, after `backward` of dy."""
        if not self.columns:
            return []
        of_a = _wide_product(dy[:, self.outputs :].t(), x[:, : self.inputs])
        of_b = _wide_product(dy[:, : self.outputs].t(), narrow)
        found = []
        for place in self._places:
            lora = place.lora
            found.append(of_a[place.columns].to(lora.a.dtype))
            own = of_b[place.outputs, place.columns] * lora.scaling
            found.append(own.to(lora.b.dtype))
        return found

    def forward(self, x: Tensor) -> Tensor:
        """y [rows, outputs] of x in its `room`; the columns behind it are filled."""
        if self.columns:
            torch.mm(x[:, : self.inputs], self.a.t(), out=x[:, self.inputs :])
        weight = self._whole()[: self.outputs].t()
        return torch.mm(x, weight) if self._bias is None else torch.addmm(self._bias, x, weight)

    def backward(self, dy: Tensor, *, wanted: bool = True) -> Tensor | None:
        """dx [rows, inputs] of dy in its room, if it is wanted; the columns are filled."""
        if self.columns:
            torch.mm(dy[:, : self.outputs], self.b, out=dy[:, self.outputs :])
        return torch.mm(dy, self._whole()[:, : self.inputs]) if wanted else None

    @abstractmethod
    def _whole(self) -> Tensor:
        """[W, s B; A, nothing]: [outputs + columns, inputs + columns]."""

    def _room(self, rows: int, width: int) -> Tensor:
        wide = torch.empty(rows, _up(width, _PITCH), dtype=self.dtype, device=self.device)
        return wide[:, :width]


class DenseProduct(Product):
    """A product of weights in 16 or 32 bits, which it takes over.

    The layers are left with views of them, so that they can be called as before.
    """

    def __init__(self, parts: Sequence[Part], dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(parts, dtype, device)
        self._weight = self._room(self.outputs + self.columns, self.inputs + self.columns)
        self.a = self._weight[self.outputs :, : self.inputs].zero_()
        self.b = self._weight[: self.outputs, self.inputs :].zero_()
        first = 0
        for part in parts:
            own = self._weight[first : first + part.layer.out_features, : self.inputs]
            own.copy_(part.layer.weight.detach())
            part.layer.weight = nn.Parameter(own, requires_grad=False)
            first += part.layer.out_features

    def _whole(self) -> Tensor:
        return self._weight


class PackedProduct(Product):
    """A product of packed weights, dequantized for each product and not kept."""

    def __init__(self, parts: Sequence[Part], dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(parts, dtype, device)
        self._layers = [part.layer for part in parts]
        self.a = torch.zeros(self.columns, self.inputs, dtype=dtype, device=device)
        self.b = torch.zeros(self.outputs, self.columns, dtype=dtype, device=device)

    def _whole(self) -> Tensor:
        whole = self._room(self.outputs + self.columns, self.inputs + self.columns)
        whole[self.outputs :, : self.inputs] = self.a
        whole[: self.outputs, self.inputs :] = self.b
        first = 0
        for layer in self._layers:
            own = whole[first : first + layer.out_features, : self.inputs]
            if isinstance(layer, QuantizedLinear):
                dequantize_into(layer, own)
            else:
                own.copy_(layer.weight)
            first += layer.out_features
        return whole


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _biases(layers: Sequence[Any], dtype: torch.dtype) -> Tensor | None:
    """Of all layers [out], zeros where only some have one; None where none has."""
    if all(layer.bias is None for layer in layers):
        return None
    like = next(layer.bias.detach() for layer in layers if layer.bias is not None).to(dtype)
    return torch.cat(
        [
            like.new_zeros(layer.out_features)
            if layer.bias is None
            else layer.bias.detach().to(dtype)
            for layer in layers
        ]
    )


def _wide_product(left: Tensor, right: Tensor) -> Tensor:
    """left right, summed and given in float32 where the card's library can give that."""
    if left.is_cuda and left.dtype in (torch.float16, torch.bfloat16):
        return torch.mm(left, right, out_dtype=torch.float32)
    return torch.mm(left, right)
