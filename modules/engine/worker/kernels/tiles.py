"""`Tiles`: packed weights in the order in which the lanes of the tensor cores want them.

A tile is 16 outputs by 64 inputs. Lane 4 g + q of a warp has, in one 16-byte word of 4-bit codes
(two of 8-bit ones), the outputs g and g + 8, and of each 32 inputs the eight from 8 q on. So a
warp reads a tile in one piece, and the lane's part of x lies together as well. product.cu reads
this; `Tiles.dequantize` is the same in plain torch, and says what the order is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from modules.loader.quantization.linear import QuantizedLinear
from modules.loader.quantization.packing import unpack

__all__ = ["Tiles"]

_OUTPUTS, _INPUTS = 16, 64

# A code's place, before: [output tile, which of g and g + 8, g, input tile, half, q, step, pair,
# which of the pair]. In 4 bits, the two outputs share a byte.
_PLACES_4 = (0, 3, 2, 5, 4, 6, 8, 7, 1)
_PLACES_8 = (0, 3, 4, 2, 5, 6, 1, 7, 8)


@dataclass(eq=False)
class Tiles:
    """Weights [out_features, in_features] of 4 or 8 bits, in groups along the inputs.

    `codes` is uint8 [out / 16, in / 64, 128 * bits], `scales` and `zeros` (None where every zero
    point is 2^(bits-1)) are float16 [out / 16, groups, 8, 2].
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor | None
    bits: int
    group_size: int
    in_features: int
    out_features: int

    @staticmethod
    def fits(layer: QuantizedLinear) -> bool:
        """Whether the weights of a layer can be put in this order."""
        return (
            type(layer) is QuantizedLinear
            and layer.bits in (4, 8)
            and layer.in_features % _INPUTS == 0
            and layer.out_features % _OUTPUTS == 0
            and (layer.group_size == 32 or layer.group_size % _INPUTS == 0)
            and layer.in_features % layer.group_size == 0
            and layer.scales.dtype == torch.float16
        )

    @classmethod
    def of(cls, layers: Sequence[QuantizedLinear], order: Tensor | None = None) -> Tiles:
        """The outputs of `layers`, one after the other, or as `order` [out_features] has them.

        All have the same inputs, bits and groups, and fit.
        """
        first = layers[0]
        codes = torch.cat([unpack(layer.weight, layer.bits) for layer in layers])
        scales = torch.cat([layer.scales for layer in layers])
        zeros = None
        if any(layer.zeros is not None for layer in layers):
            zeros = torch.cat([_zeros(layer) for layer in layers])
        if order is not None:
            codes, scales = codes[order], scales[order]
            zeros = None if zeros is None else zeros[order]
        return cls(
            _tiled(codes, first.bits),
            _by_group(scales),
            None if zeros is None else _by_group(zeros),
            first.bits,
            first.group_size,
            first.in_features,
            len(scales),
        )

    @cached_property
    def pointers(self) -> tuple[int, int, int]:
        """Of codes, scales and zeros (of something else where there are none)."""
        zeros = self.scales if self.zeros is None else self.zeros
        return self.codes.data_ptr(), self.scales.data_ptr(), zeros.data_ptr()

    @cached_property
    def sizes(self) -> tuple[int, int, int]:
        """Inputs, outputs and groups."""
        return self.in_features, self.out_features, self.scales.shape[1]

    @cached_property
    def form(self) -> tuple[int, bool, int]:
        """Bits, whether there are zero points, and the tiles of a group (0 for half a tile)."""
        return self.bits, self.zeros is not None, self.group_size // _INPUTS

    @property
    def nbytes(self) -> int:
        """Bytes that a product reads."""
        zeros = 0 if self.zeros is None else self.zeros.nbytes
        return self.codes.nbytes + self.scales.nbytes + zeros

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """W [out_features, in_features]: (code - zero) * scale, rounded once to `dtype`."""
        exact = torch.promote_types(torch.float16, dtype)
        codes = self._codes().to(exact)
        zeros = 1 << (self.bits - 1) if self.zeros is None else self._per_input(self.zeros, exact)
        return (codes - zeros).mul_(self._per_input(self.scales, exact)).to(dtype)

    def _codes(self) -> Tensor:
        """[out_features, in_features], uint8."""
        places = _PLACES_4 if self.bits == 4 else _PLACES_8
        codes = unpack(self.codes, self.bits)
        sizes = _sizes(self.out_features, self.in_features)
        laid = codes.view([sizes[place] for place in places])
        back = sorted(range(len(places)), key=places.__getitem__)
        return laid.permute(back).reshape(self.out_features, self.in_features)

    def _per_input(self, per_group: Tensor, dtype: torch.dtype) -> Tensor:
        rows = per_group.permute(0, 3, 2, 1).reshape(self.out_features, -1).to(dtype)
        return rows.repeat_interleave(self.group_size, dim=1)


def _sizes(outputs: int, inputs: int) -> tuple[int, ...]:
    return (outputs // _OUTPUTS, 2, 8, inputs // _INPUTS, 2, 4, 2, 2, 2)


def _tiled(codes: Tensor, bits: int) -> Tensor:
    """Codes [out, in] (uint8) as bytes [out / 16, in / 64, 128 * bits]."""
    outputs, inputs = codes.shape
    places = _PLACES_4 if bits == 4 else _PLACES_8
    laid = codes.view(_sizes(outputs, inputs)).permute(places).contiguous()
    if bits == 4:
        laid = laid[..., 0] | laid[..., 1] << 4
    return laid.reshape(outputs // _OUTPUTS, inputs // _INPUTS, 128 * bits)


def _by_group(values: Tensor) -> Tensor:
    """[out, groups] as float16 [out / 16, groups, 8, 2]: g and g + 8 side by side."""
    groups = values.shape[1]
    return values.half().view(-1, 2, 8, groups).permute(0, 3, 2, 1).contiguous()


def _zeros(layer: QuantizedLinear) -> Tensor:
    if layer.zeros is not None:
        return layer.zeros
    return torch.full_like(layer.scales, 1 << (layer.bits - 1))
