"""`Linear`: a product of the model, over weights of any format, alone or several taken together.

`TiledLinear` (kernels/tiled_linear.py) has the kernels of the tensor cores; `DenseLinear` is one
dense product; and `JoinedLinear` computes the modules of the loader one after the other, whatever
they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["DenseLinear", "JoinedLinear", "Linear"]


class Linear(Protocol):
    """y = x Wᵀ + bias. `paired` says in which order the outputs are; see kernels/rows.py."""

    paired: bool

    def __call__(self, x: Tensor) -> Tensor:
        """x [rows, in] to [rows, out], in the dtype of x."""
        ...


class DenseLinear:
    """Weights [out, in] as they are."""

    paired = False

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        """One dense product."""
        return functional.linear(x, self.weight, self.bias)


class JoinedLinear:
    """Modules with the same input, their outputs one after the other."""

    paired = False

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._modules = tuple(modules)

    def __call__(self, x: Tensor) -> Tensor:
        """Each in turn."""
        parts: list[Tensor] = [module(x) for module in self._modules]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
