"""`Looks`: what the first token of a reply may be, for those who draw none."""

from __future__ import annotations

import dataclasses
from collections import deque
from dataclasses import dataclass

from torch import Tensor, full_like, inf, maximum, zeros_like
from transformers import PreTrainedTokenizerBase

from modules.engine.mix import Mix
from modules.engine.protocol import NextToken, NextTokens, NextTokensFound
from modules.engine.worker.sampler import Sampler, require_finite
from modules.engine.worker.sequence import Sequence
from modules.engine.worker.tokens import text_after

__all__ = ["Looks", "chances"]

_MOST = 100
_KEPT = 4
_CONTEXT = 4
"""Tokens of the prompt after which the text of the next one is decoded."""


@dataclass(frozen=True, slots=True, eq=False)
class _Known:
    token_ids: list[int]
    mix: Mix
    logits: Tensor


class Looks:
    """Answers `NextTokens`, and keeps the logits of the last prompts that were looked at.

    Who turns a knob asks about the same prompt again, and is answered without a forward.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._known: deque[_Known] = deque(maxlen=_KEPT)

    def known(self, seq: Sequence) -> Tensor | None:
        """The logits [vocab] after the prompt of `seq`, if they are here."""
        for known in self._known:
            if known.mix == seq.mix and known.token_ids == seq.token_ids:
                return known.logits
        return None

    def keep(self, seq: Sequence, logits: Tensor) -> None:
        """Keep the logits after a prompt, in the place of the oldest."""
        self._known.append(_Known(seq.token_ids, seq.mix, logits))

    def forget(self) -> None:
        """Forget all logits: the LoRAs have changed."""
        self._known.clear()

    def answer(self, command: NextTokens, seq: Sequence, logits: Tensor) -> NextTokensFound:
        """Raises EngineError for logits that are no numbers."""
        require_finite(logits)
        before = logits.softmax(dim=-1)
        after, possible = chances(seq.sampler, logits, seq.token_ids)
        count = min(max(1, command.count), _MOST, len(logits))
        likely = maximum(before, after).topk(count).indices
        likely = likely[before[likely].argsort(descending=True, stable=True)]
        context = seq.token_ids[-_CONTEXT:]
        rows = zip(*(t.tolist() for t in (likely, before[likely], after[likely])), strict=True)
        return NextTokensFound(
            command.id,
            tuple(NextToken(i, text_after(self._tokenizer, context, i), b, a) for i, b, a in rows),
            kept=int(possible.sum()),
            vocabulary=len(logits),
            prompt_tokens=len(seq.token_ids),
        )


def chances(sampler: Sampler, logits: Tensor, prompt_ids: list[int]) -> tuple[Tensor, Tensor]:
    """How likely `sampler` is to draw each token first, [vocab], and which it can draw at all.

    XTC acts by chance, so both of its outcomes are weighed by their probabilities. Samplers
    that steer by what was drawn are as they begin.
    """
    params = sampler.params
    odds = 0.0 if params.greedy else params.xtc_probability
    after = zeros_like(logits)
    possible = zeros_like(logits).bool()
    for share, xtc in ((1 - odds, 0.0), (odds, 1.0)):
        if share:
            fresh = dataclasses.replace(sampler, params=params.replace(xtc_probability=xtc))
            scores = fresh.process(logits, prompt_ids)
            if params.greedy:
                scores = full_like(scores, -inf).index_fill(0, scores.argmax(), 0)
            after += share * scores.softmax(dim=-1)
            possible |= ~scores.isneginf()
    return after, possible
