"""Cut-offs that transformers does not have: they drop tokens, and keep at least one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessor

from modules.engine.worker.sampling.draws import COIN, uniform

__all__ = ["ExcludeTopChoices", "TailFree", "TopA", "TopNSigma"]


@dataclass(frozen=True, slots=True)
class TailFree(LogitsProcessor):
    """Keeps the sorted tokens until |p''| has summed up to the share `z` of its total.

    p'' is the second difference of the sorted probabilities; the cut is centred on it, so
    that the first token stays and the last goes. Source:
    https://www.trentonbricken.com/Tail-Free-Sampling/
    """

    z: float

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """New scores [1, vocab]."""
        ordered, places = scores.sort(descending=True)
        bends = ordered.softmax(-1).diff(n=2).abs()
        share = bends.cumsum(-1) / bends.sum(-1, keepdim=True).clamp(min=1e-30)
        dropped = torch.nn.functional.pad(share > self.z, (1, 0), value=False)
        dropped = torch.nn.functional.pad(dropped, (0, 1), value=True)
        return scores.masked_fill(dropped.scatter(-1, places, dropped), -torch.inf)


@dataclass(frozen=True, slots=True)
class TopA(LogitsProcessor):
    """Keeps p ≥ a · max(p)². Source:
    https://github.com/BlinkDL/RWKV-LM#the-top-a-sampling-method
    """

    a: float

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """New scores [1, vocab]."""
        p = scores.softmax(-1)
        return scores.masked_fill(p < self.a * p.amax(-1, keepdim=True).square(), -torch.inf)


@dataclass(frozen=True, slots=True)
class TopNSigma(LogitsProcessor):
    """Keeps logits ≥ max - n · s, with s their standard deviation.

    Tokens that are ruled out already do not count. Source: https://arxiv.org/abs/2411.07641
    """

    n: float

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """New scores [1, vocab]."""
        there = scores.isfinite()
        count = there.sum(-1, keepdim=True)
        mean = scores.where(there, 0).sum(-1, keepdim=True) / count
        sigma = ((scores - mean).where(there, 0).square().sum(-1, keepdim=True) / count).sqrt()
        return scores.masked_fill(
            scores < scores.amax(-1, keepdim=True) - self.n * sigma, -torch.inf
        )


@dataclass(slots=True)
class ExcludeTopChoices(LogitsProcessor):
    """XTC: with a probability, drops all tokens with p ≥ threshold but the least likely.

    Nothing is dropped if that would drop one of `protected`, the end tokens and the line
    break. The coin of the n-th call belongs to the request's seed and n. Source:
    https://github.com/oobabooga/text-generation-webui/pull/6335
    """

    threshold: float
    probability: float
    protected: Tensor
    seed: int
    calls: int = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """New scores [1, vocab]."""
        ordered, places = scores.sort(descending=True)
        p = ordered.softmax(-1)
        # A token goes if the next one is likely enough too; one ruled out never is.
        rest = p[..., 1:]
        likely = torch.nn.functional.pad((rest >= self.threshold) & (rest > 0), (0, 1))
        dropped = likely.scatter(-1, places, likely)
        chance = uniform(self.seed, self.calls, COIN)
        self.calls += 1
        acts = ~dropped[..., self.protected].any() & (chance < self.probability)
        return scores.masked_fill(dropped & acts, -torch.inf)
