"""`Uploads`: small lists on their way to the device, without waiting for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Uploads"]


class Uploads:
    """Makes tensors on one device. From pinned memory a copy runs by itself."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pinned = device.type == "cuda"

    def floats(self, values: Sequence[float], dtype: torch.dtype = torch.float32) -> Tensor:
        """`values` [n]."""
        return self._sent(torch.tensor(values, dtype=dtype, pin_memory=self._pinned))

    def doubles(self, values: Sequence[float]) -> Tensor:
        """`values` [n], float64."""
        return self.floats(values, torch.float64)

    def raw(self, values: bytes) -> Tensor:
        """`values` [n], uint8."""
        return self._sent(torch.tensor(list(values), dtype=torch.uint8, pin_memory=self._pinned))

    def ints(self, values: Sequence[int]) -> Tensor:
        """`values` [n], int64."""
        return self._sent(torch.tensor(values, dtype=torch.long, pin_memory=self._pinned))

    def ragged(self, lists: Sequence[Sequence[int]], fill: int) -> Tensor:
        """`lists` as rows [n, longest], int64, the short ones filled up."""
        longest = max(map(len, lists))
        full = [[*values, *[fill] * (longest - len(values))] for values in lists]
        flat = [value for values in full for value in values]
        return self.ints(flat).view(len(lists), longest)

    def _sent(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)
