"""`TiledLinear`: a product with packed weights on a card, by the kernels of the tensor cores.

It may be several layers of the model taken together. Those are left as views of it (`become_part`),
with the interface that they had; a layer by itself goes on to be called as the module that it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from modules.engine.worker.kernels.product import MOST_ROWS, LowRank, Norm, ProductKernels, Rope
from modules.engine.worker.kernels.tiles import Tiles
from modules.loader.quantization.linear import QuantizedLinear

__all__ = ["TiledLinear", "become_part", "dequantize_into", "use_tiles"]


class TiledLinear:
    """Packed weights in tiles, on a card. `perm` is the order in which it takes the inputs."""

    def __init__(
        self,
        tiles: Tiles,
        bias: Tensor | None,
        kernels: ProductKernels,
        *,
        perm: Tensor | None = None,
        paired: bool = False,
    ) -> None:
        self.tiles, self.bias, self.kernels = tiles, bias, kernels
        self.perm, self.paired = perm, paired

    def __call__(self, x: Tensor) -> Tensor:
        """By the kernel for a few rows, by a dense product with dequantized weights for more."""
        if self.perm is not None:
            x = x.index_select(-1, self.perm)
        x = x.contiguous()
        if len(x) > MOST_ROWS:
            return functional.linear(x, self.kernels.dequantize(self.tiles), self.bias)
        y = x.new_empty(len(x), self.tiles.out_features)
        return self.kernels.multiply(self.tiles, x, y, bias=self.bias)

    def fuses(self, rows: int) -> bool:
        """Whether what stands after the product can be computed on the way."""
        return self.perm is None and rows <= MOST_ROWS

    def norms(self, rows: int) -> bool:
        """Whether the norm before the product can be, too."""
        return self.kernels.norms(self.tiles, rows)

    def after_norm(self, h: Tensor, norm: Norm | None, low_rank: LowRank | None = None) -> Tensor:
        """norm(h) Wᵀ + bias: [rows, out]; here and below with what LoRAs add."""
        y = h.new_empty(len(h), self.tiles.out_features)
        return self._multiply(h, y, norm=norm, low_rank=low_rank)

    def turned(
        self, h: Tensor, norm: Norm | None, rope: Rope, low_rank: LowRank | None = None
    ) -> Tensor:
        """Queries [rows, heads, head_dim] of norm(h); keys and values go into the cache."""
        q = h.new_empty(len(h), rope.heads, rope.keys.shape[-1])
        flat = q.view(len(h), -1)
        self._multiply(h, flat, norm=norm, epilogue="rope", rope=rope, low_rank=low_rank)
        return q

    def gated(self, h: Tensor, norm: Norm | None, low_rank: LowRank | None = None) -> Tensor:
        """silu(gate) * up of norm(h): [rows, out / 2]."""
        y = h.new_empty(len(h), self.tiles.out_features // 2)
        return self._multiply(h, y, norm=norm, epilogue="swiglu", low_rank=low_rank)

    def added(self, x: Tensor, h: Tensor, low_rank: LowRank | None = None) -> Tensor:
        """h += x Wᵀ + bias."""
        return self._multiply(x, h, epilogue="add", low_rank=low_rank)

    def _multiply(self, x: Tensor, y: Tensor, **around: Any) -> Tensor:
        return self.kernels.multiply(self.tiles, x, y, bias=self.bias, **around)


class _Part(QuantizedLinear):
    """Some outputs of a `TiledLinear`, as the layer that they were.

    `places` are their rows, None for all.
    """

    fused: TiledLinear
    places: Tensor | None

    def _product(self, x: Tensor) -> Tensor:
        if self.places is not None or x.dtype != self.fused.kernels.dtype:
            return super()._product(x)
        rows = self.fused(x.reshape(-1, self.in_features))
        return rows.view(*x.shape[:-1], self.out_features)

    def _ordered(self, dtype: torch.dtype) -> Tensor:
        if dtype == self.fused.kernels.dtype:
            weight = self.fused.kernels.dequantize(self.fused.tiles)
        else:
            weight = self.fused.tiles.dequantize(dtype)
        return weight if self.places is None else weight[self.places]


def become_part(layer: QuantizedLinear, fused: TiledLinear, places: Tensor | None) -> None:
    """Let `layer` be the outputs `places` of a product that has its weights; its own are gone."""
    # Not another module in its place: whoever holds this one goes on to hold it.
    layer.__class__ = _Part
    layer.weight = nn.Parameter(layer.weight.new_empty(0), requires_grad=False)
    layer.scales = nn.Parameter(layer.scales.new_empty(0), requires_grad=False)
    layer.zeros = None
    layer.fused, layer.places = fused, places  # type: ignore[assignment]


def dequantize_into(layer: QuantizedLinear, out: Tensor) -> Tensor:
    """W of a layer, in tiles or not, written to `out` [out_features, in_features]."""
    if isinstance(layer, _Part) and layer.places is None and layer.perm is None:
        fused = layer.fused
        if out.dtype == fused.kernels.dtype:
            return fused.kernels.dequantize(fused.tiles, out)
    return out.copy_(layer.dequantize(out.dtype))


@torch.inference_mode()
def use_tiles(layers: Iterable[nn.Module], kernels: ProductKernels) -> int:
    """Give every layer on the card that fits the kernels; returns how many there were."""
    fitting = [
        layer
        for layer in layers
        if isinstance(layer, QuantizedLinear) and layer.weight.is_cuda and Tiles.fits(layer)
    ]
    for layer in fitting:
        perm = None if layer.perm is None else layer.perm.long()
        become_part(layer, TiledLinear(Tiles.of([layer]), None, kernels, perm=perm), None)
    return len(fitting)
