"""Temperatures that depend on the distribution; the plain one is transformers'."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers import LogitsProcessor

__all__ = ["DynamicTemperature", "QuadraticSmoothing"]


@dataclass(frozen=True, slots=True)
class DynamicTemperature(LogitsProcessor):
    """score / T with T = low + (high - low) · (H / H_max)^exponent.

    H is the entropy of the distribution, H_max that of an even one over the tokens that are
    not ruled out. Source: https://github.com/ggml-org/llama.cpp/pull/4972
    """

    low: float
    high: float
    exponent: float

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """New scores [1, vocab]."""
        logp = scores.log_softmax(-1)
        entropy = -(logp.exp() * logp).nansum(-1, keepdim=True).clamp(max=0)
        most = scores.isfinite().sum(-1, keepdim=True).log().clamp(min=1e-10)
        unsure = (entropy / most).clamp(0, 1)
        return scores / (self.low + (self.high - self.low) * unsure**self.exponent)


@dataclass(frozen=True, slots=True)
class QuadraticSmoothing(LogitsProcessor):
    """max + f · d² · (s · d - k), with d = score - max, k = (3 - curve)/2, s = (curve - 1)/2.

    Source: https://github.com/oobabooga/text-generation-webui/pull/5403, and for the curve
    https://github.com/oobabooga/text-generation-webui/pull/5551
    """

    factor: float
    curve: float

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """New scores [1, vocab]."""
        k, s = (3 - self.curve) / 2, (self.curve - 1) / 2
        highest = scores.amax(-1, keepdim=True)
        d = scores - highest
        smoothed = highest + self.factor * d.square() * (s * d - k)
        return smoothed.where(scores.isfinite(), scores)
