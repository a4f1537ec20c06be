"""Samplers that steer by what was drawn before; their state belongs to one request.

At each call but the first, the last of the token ids is what was drawn from the scores of
the call before. State stays on the device, and is read by `take`, for an index in brackets
would wait for its value.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor
from transformers import LogitsProcessor

__all__ = ["AdaptiveP", "MirostatOne", "MirostatTwo"]


class _Mirostat(LogitsProcessor):
    """Keeps the surprise of the drawn tokens, -log2 p, near `tau` bits by the limit μ.

    μ begins at 2τ, and after each draw μ ← μ - η · (surprise - τ). As in the paper, the
    surprise is that of the distribution before the cut. Source:
    https://arxiv.org/abs/2007.14966
    """

    def __init__(self, tau: float, eta: float) -> None:
        self.tau = tau
        self.eta = eta
        self.mu = torch.tensor(2 * tau)
        self._surprise: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """New scores [1, vocab]."""
        if self._surprise is None:
            self.mu = self.mu.to(scores.device)
        else:
            self.mu = self.mu - self.eta * (self._surprise.take(input_ids[0, -1]) - self.tau)
        surprise = -scores.log_softmax(-1) / math.log(2)
        self._surprise = surprise[0]
        return self._cut(scores, surprise)

    @abstractmethod
    def _cut(self, scores: Tensor, surprise: Tensor) -> Tensor: ...


class MirostatTwo(_Mirostat):
    """Drops tokens more surprising than μ; the most likely one stays (algorithm 2)."""

    def _cut(self, scores: Tensor, surprise: Tensor) -> Tensor:
        beyond = (surprise > self.mu) & (scores < scores.amax(-1, keepdim=True))
        return scores.masked_fill(beyond, -torch.inf)


class MirostatOne(_Mirostat):
    """Keeps the k most likely tokens (algorithm 1).

    k = (ε · 2^μ / (1 - N^-ε))^(1/s), ε = s - 1, for the Zipf exponent s estimated by least
    squares from the 100 most likely tokens, and a vocabulary of N.
    """

    def _cut(self, scores: Tensor, surprise: Tensor) -> Tensor:
        ordered = surprise[0].sort().values
        vocab = len(ordered)
        top = ordered[: min(101, vocab)].double() * math.log(2)
        ratios = top.diff()
        steps = torch.arange(1, len(top), device=scores.device, dtype=torch.float64)
        steps = ((steps + 1) / steps).log()
        # Beyond the tokens that are ruled out there is no ratio.
        weights = steps.where(ratios.isfinite(), 0)
        ratios = ratios.where(ratios.isfinite(), 0)
        s = (weights * ratios).sum() / (weights * weights).sum().clamp(min=1e-12)
        s = s.clamp(min=1e-2)
        epsilon = torch.where((s - 1).abs() < 1e-6, 1e-6, s - 1)
        k = (epsilon * 2 ** self.mu.double() / (1 - vocab**-epsilon)) ** (1 / s)
        k = k.round().clamp(1, vocab).long()
        return scores.masked_fill(surprise > ordered.take(k - 1), -torch.inf)


class AdaptiveP(LogitsProcessor):
    """Makes tokens likely whose probability is near a target: 5 - 10 · d² / (1 + d).

    d = |p - a| / 0.3, a = 2 · target - average, and the average is that of the drawn
    tokens' p: average ← decay · average + (1 - decay) · p, beginning at the target. Comes
    last, after the cut-offs. Source: https://github.com/ggml-org/llama.cpp/pull/17927
    """

    def __init__(self, target: float, decay: float) -> None:
        self.target = target
        self.decay = decay
        self.average = torch.tensor(target)
        self._p: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """New scores [1, vocab]."""
        if self._p is None:
            self.average = self.average.to(scores.device)
        else:
            drawn = self._p.take(input_ids[0, -1])
            self.average = self.decay * self.average + (1 - self.decay) * drawn
        p = scores.softmax(-1)
        self._p = p[0]
        d = (p - (2 * self.target - self.average).clamp(0, 1)).abs() / 0.3
        return (5 - 10 * d.square() / (1 + d)).where(scores.isfinite(), scores)
