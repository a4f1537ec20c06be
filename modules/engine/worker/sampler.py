"""`Sampler`: from the logits of one position to the next token."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList, PreTrainedTokenizerBase

from modules.engine.params import SamplingParams
from modules.engine.protocol import TokenLogprob
from modules.engine.worker.extensions import RequestHooks
from modules.engine.worker.sampling.chain import Situation, make_chain
from modules.engine.worker.sampling.draws import pick, uniform
from modules.engine.worker.structure.structure import Structure
from modules.errors import EngineError

__all__ = ["Sampler", "not_finite", "require_finite", "token_logprob"]


def _no_tokens(text: str) -> list[int]:
    return []


@dataclass(slots=True)
class Sampler:
    """How one request picks its tokens. Its draws belong to its seed, so that one means the
    same whoever else is being served. `seed` is the one in use (-1 was replaced).

    `tokens_of` gives the ids of a text without special tokens, for parameters that are
    written as text. The first position that a sampler sees is the end of its prompt, and
    each later one follows the token that was drawn before. `structure` is the form that the
    reply keeps to: all parameters choose among the tokens that it allows, and so do the `hooks`
    of extensions, which come last.
    """

    params: SamplingParams
    eos_ids: frozenset[int]
    tokens_of: Callable[[str], list[int]] = _no_tokens
    structure: Structure | None = None
    hooks: RequestHooks | None = None
    seed: int = field(init=False)
    _processors: LogitsProcessorList | None = field(init=False, default=None)
    _draws: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.seed = self.params.seed if self.params.seed >= 0 else secrets.randbelow(2**31)

    def process(self, logits: Tensor, token_ids: list[int]) -> Tensor:
        """The logits [vocab] with every parameter applied; the same tensor when none is."""
        if self._processors is None:
            self._processors = self._begin(logits, token_ids)
        if self.structure is not None:
            logits = self.structure.apply(logits, token_ids)
        if not self._processors:
            return logits
        context: Any = torch.tensor([token_ids], dtype=torch.long, device=logits.device)
        scores: Any = logits[None]
        processed: Tensor = self._processors(context, scores)[0]
        if self.hooks is not None and self.structure is not None:
            kept = processed.masked_fill(logits.isneginf(), float("-inf"))
            return kept if torch.isfinite(kept.max()) else logits
        return processed

    def sample(self, logits: Tensor, token_ids: list[int]) -> int:
        """The next token from float32 logits [vocab], after the tokens so far.

        Raises EngineError for logits that are no numbers.
        """
        require_finite(logits)
        scores = self.process(logits, token_ids)
        if self.params.greedy:
            token_id = int(scores.argmax())
        else:
            chance = uniform(self.seed, self._draws)
            chances = torch.tensor([[chance]], dtype=torch.float64, device=scores.device)
            token_id = int(pick(scores[None], chances)[0])
        self._draws += 1
        if self.structure is not None:
            self.structure.expect([*token_ids, token_id])
        return token_id

    def _begin(self, logits: Tensor, prompt_ids: list[int]) -> LogitsProcessorList:
        chain = make_chain(
            Situation(
                self.params,
                prompt_ids,
                logits.shape[-1],
                self.eos_ids,
                self.tokens_of,
                self.seed,
                logits.device,
            )
        )
        if self.hooks is None:
            return chain
        return self.hooks.processors(chain, torch.tensor([prompt_ids], device=logits.device))


def require_finite(logits: Tensor) -> None:
    """Raise EngineError for logits that are no numbers."""
    # max() passes NaN on, so this one reduction finds NaN, +inf and "all -inf".
    if not torch.isfinite(logits.max()):
        raise not_finite()


def not_finite() -> EngineError:
    """What to say of logits that are no numbers."""
    return EngineError(
        "The model produced numbers that are not finite.",
        "Try dtype bfloat16 or float32; if it happens again, the weights are damaged.",
    )


def token_logprob(
    logits: Tensor, token_id: int, alternatives: int, tokenizer: PreTrainedTokenizerBase
) -> TokenLogprob:
    """The log-probability of a token and of the most likely ones under the model alone.

    `logits` is [vocab], float32, before any sampling parameter.
    """
    logprobs = logits.log_softmax(dim=-1)
    values, ids = logprobs.topk(min(max(alternatives, 0), logprobs.shape[-1]))
    top = tuple(
        (str(tokenizer.decode([i])), value)
        for i, value in zip(ids.tolist(), values.tolist(), strict=True)
    )
    return TokenLogprob(str(tokenizer.decode([token_id])), float(logprobs[token_id]), top)
