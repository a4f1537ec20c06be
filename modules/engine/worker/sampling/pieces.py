"""Long rows as many short ones.

torch gives each row of a scan to one block of threads, so that a few rows as long as a
vocabulary use a few per cent of a card.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import pad

__all__ = ["in_pieces", "running_sum"]

_SIZES = (512, 256, 128)
_WIDE = 4096


def in_pieces(x: Tensor) -> Tensor:
    """`x` [n, width] as [n, pieces, size], filled up with zeros where size does not divide."""
    width = x.shape[-1]
    size = next((size for size in _SIZES if width % size == 0), _SIZES[1])
    if width % size:
        x = pad(x, (0, -width % size))
    return x.reshape(len(x), -1, size)


def running_sum(x: Tensor) -> Tensor:
    """The cumulative sum of `x` [n, width] along its rows."""
    width = x.shape[-1]
    if width <= _WIDE:
        return x.cumsum(-1)
    inside = in_pieces(x).cumsum(-1)
    before = pad(inside[..., -1].cumsum(-1)[:, :-1], (1, 0))
    return (inside + before[..., None]).flatten(1)[:, :width]
