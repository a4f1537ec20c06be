"""What has been said makes less likely what comes next.

A processor takes the token ids so far [1, n] and the scores of the next position
[1, vocab], and returns new scores; so do all in this package, on the scores' device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessor

__all__ = ["Dry", "OccurrencePenalty", "Ranged", "Sparing"]


@dataclass(frozen=True, slots=True)
class Ranged(LogitsProcessor):
    """Shows a processor only the last `count` tokens."""

    processor: LogitsProcessor
    count: int

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """New scores [1, vocab]."""
        result: Tensor = self.processor(input_ids[:, -self.count :], scores)
        return result


@dataclass(frozen=True, slots=True)
class Sparing(LogitsProcessor):
    """Drops a ban that would leave no token at all, for then nothing could be drawn."""

    ban: LogitsProcessor

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """New scores [1, vocab]."""
        banned: Tensor = self.ban(input_ids, scores)
        return torch.where(banned.isneginf().all(), scores, banned)


@dataclass(frozen=True, slots=True)
class OccurrencePenalty(LogitsProcessor):
    """score(t) - presence · [count(t) > 0] - frequency · count(t), as OpenAI's API defines it.

    As in text-generation-webui, the prompt counts too.
    """

    presence: float
    frequency: float

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """New scores [1, vocab]."""
        vocab = scores.shape[-1]
        # The column past the vocabulary takes ids for which the model has no logit.
        counts = scores.new_zeros(vocab + 1)
        ids = input_ids[0].clamp(max=vocab)
        counts = counts.scatter_add(0, ids, counts.new_ones(len(ids)))[:vocab]
        return scores - (self.presence * (counts > 0) + self.frequency * counts)


@dataclass(frozen=True, slots=True)
class Dry(LogitsProcessor):
    """score(t) - multiplier · base^(n - allowed_length).

    DRY, "don't repeat yourself": n is the length of the longest suffix of the text that also
    stands before an earlier t, so that t would prolong a repetition. Below allowed_length it
    costs nothing; `breakers` end a suffix. Source:
    https://github.com/oobabooga/text-generation-webui/pull/5677, with its limit of 50
    tokens, beyond which the power would overflow.
    """

    multiplier: float
    base: float
    allowed_length: int
    breakers: Tensor

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """New scores [1, vocab]."""
        if input_ids.shape[-1] < 2:
            return scores
        vocab = scores.shape[-1]
        lengths = self._repeated(input_ids[0])
        following = input_ids[0, 1:]
        lengths = lengths.masked_fill(torch.isin(following, self.breakers), 0)
        longest = lengths.new_zeros(vocab + 1)
        longest.scatter_reduce_(0, following.clamp(max=vocab), lengths, "amax")
        excess = longest[:vocab] - self.allowed_length
        penalty = self.multiplier * torch.pow(self.base, excess.to(scores.dtype))
        return torch.where(excess >= 0, scores - penalty, scores)

    def _repeated(self, ids: Tensor) -> Tensor:
        """For each position of `ids` [n] but the last, how long a suffix of `ids` ends there."""
        reach = min(50, len(ids))
        suffix = ids[-reach:]
        before = torch.cat((ids.new_full((reach - 1,), -1), ids[:-1]))
        matches = before.unfold(0, reach, 1) == suffix
        matches = matches & ~torch.isin(suffix, self.breakers)
        # Backwards from the end, the product stays 1 until the first token that differs.
        return matches.flip(-1).cumprod(-1, dtype=torch.int8).sum(-1)
