"""Random numbers that belong to (seed, number of the draw), and the token that one stands for.

A request's draw must be the same alone and among others, so there is no generator with a
state: a draw is a hash of its number. And it must be the same whoever adds up the weights,
so these are whole numbers, whose sums do not depend on their order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modules.engine.worker.sampling.pieces import in_pieces

__all__ = ["COIN", "TOKEN", "pick", "uniform"]

TOKEN, COIN = 0, 1
"""The streams of a request: what its tokens are drawn with, and XTC's coin."""

_WORD = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
_SCALE = 2.0**40
_WIDE = 2048


def uniform(seed: int, draw: int, stream: int = TOKEN) -> float:
    """The number in (0, 1), of 48 bits, of the `draw`-th draw of a request, counted from 0.

    SplitMix64 begun at a hash of the seed: https://prng.di.unimi.it/splitmix64.c
    """
    begin = _mixed(seed * 2 + stream + _GOLDEN)
    return ((_mixed(begin + (draw + 1) * _GOLDEN) >> 16) + 0.5) * 2.0**-48


def _mixed(z: int) -> int:
    z &= _WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _WORD
    return z ^ (z >> 31)


def pick(scores: Tensor, uniforms: Tensor) -> Tensor:
    """The column [n] of each row that its number in (0, 1) stands for.

    `scores` are float32 [n, width], and softmax of them the distribution; `uniforms` are
    float64 [n, 1]. In the order of the columns, the first whose cumulative probability is
    above the number. A score of -inf is never taken, nor one whose probability is below
    2^-40 of the highest. Rows that are no numbers get some column.
    """
    weights = (scores - scores.amax(-1, keepdim=True)).exp_().mul_(_SCALE).long()
    if weights.shape[-1] <= _WIDE:
        ends = weights.cumsum(-1)
        return _first_above(ends, _target(ends, uniforms))[:, 0]
    # A scan along a long row would be done by one block of a card: so first which piece.
    pieces = in_pieces(weights)
    totals = pieces.sum(-1)
    ends = totals.cumsum(-1)
    target = _target(ends, uniforms)
    piece = _first_above(ends, target)
    size = pieces.shape[-1]
    inside = pieces.gather(1, piece[:, :, None].expand(-1, 1, size))[:, 0].cumsum(-1)
    column = _first_above(inside, target - (ends - totals).gather(1, piece))
    return column.add_(piece, alpha=size)[:, 0]


def _target(ends: Tensor, uniforms: Tensor) -> Tensor:
    # Below the total for certain, as the uniforms end 2^-49 before 1.
    return (ends[:, -1:] * uniforms).long()


def _first_above(ends: Tensor, target: Tensor) -> Tensor:
    # The clamp is for rows that are no numbers: a card would stop at an index out of range.
    return torch.searchsorted(ends, target, right=True).clamp_(max=ends.shape[-1] - 1)
