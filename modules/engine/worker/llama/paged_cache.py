"""`PagedCache`: the keys and values of all layers, in blocks of 16 tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from modules.engine.worker.kernels.cache_blocks import Blocks, Int8Blocks
from modules.engine.worker.llama.processor_attention import head_major_cache
from modules.engine.worker.llama.shape import Shape

__all__ = ["PagedCache"]

_BLOCK = 16


class PagedCache:
    """`numbers` are [layers, 2, blocks, kv_heads, 16, head_dim]: keys, then values.

    With `scales`, float32 [layers, 2, blocks, kv_heads, 16], they are the codes of `Int8Blocks`.
    """

    def __init__(self, numbers: Tensor, scales: Tensor | None = None) -> None:
        self.numbers, self.scales = numbers, scales
        self.blocks, self.device = numbers.shape[2], numbers.device
        self.layers: list[tuple[Blocks, Blocks]]
        if scales is None:
            self.layers = [(keys, values) for keys, values in numbers]
        else:
            self.layers = [
                (Int8Blocks(codes[0], scale[0]), Int8Blocks(codes[1], scale[1]))
                for codes, scale in zip(numbers, scales, strict=True)
            ]

    @classmethod
    def empty(
        cls,
        shape: Shape,
        blocks: int,
        dtype: torch.dtype,
        *,
        int8: bool = False,
        head_major: bool = False,
    ) -> PagedCache:
        """One that is not filled, on torch's default device, for a model that computes in `dtype`.

        `head_major`: heads come before blocks in memory, for `RunAttention`.
        """
        sizes = (shape.layers, blocks, shape.kv_heads)
        make = head_major_cache if head_major else _block_major_cache
        if not int8:
            return cls(make(*sizes, shape.head_dim, dtype))
        codes = make(*sizes, shape.head_dim, torch.int8)
        return cls(codes, make(*sizes, 1, torch.float32).squeeze(-1))

    def copy(self, source: int, target: int) -> None:
        """Give a block the content of another, in all layers."""
        self.numbers[:, :, target] = self.numbers[:, :, source]
        if self.scales is not None:
            self.scales[:, :, target] = self.scales[:, :, source]


def _block_major_cache(
    layers: int, blocks: int, kv_heads: int, width: int, dtype: torch.dtype
) -> Tensor:
    return torch.empty(layers, 2, blocks, kv_heads, _BLOCK, width, dtype=dtype)
