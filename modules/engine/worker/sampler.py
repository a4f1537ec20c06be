"""`Sampler`: from the logits of one position to the next token.

A sampling parameter is one entry in a table below: its field in `SamplingParams`, and how
to make the logits processor for a value that is not neutral. A neutral value makes none,
so neutral parameters leave the logits bit for bit as the model gave them.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    PreTrainedTokenizerBase,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from modules.engine.params import SamplingParams, knobs
from modules.engine.protocol import TokenLogprob
from modules.errors import EngineError

__all__ = ["PENALTIES", "WARPERS", "Sampler", "token_logprob"]

Factory = Callable[[Any, frozenset[int]], LogitsProcessor]
"""From a parameter's value and the end tokens of the model to a logits processor."""

PENALTIES: Mapping[str, Factory] = {
    "repetition_penalty": lambda value, _: RepetitionPenaltyLogitsProcessor(value),
    "ban_eos_token": lambda _, eos_ids: SuppressTokensLogitsProcessor(sorted(eos_ids)),
}
"""Applied first, in this order, and to greedy choice too, as `generate` does."""

WARPERS: Mapping[str, Factory] = {
    # Below 1e-5 the quotient overflows float32; the choice is greedy long before.
    "temperature": lambda value, _: TemperatureLogitsWarper(max(value, 1e-5)),
    "top_k": lambda value, _: TopKLogitsWarper(value),
    "top_p": lambda value, _: TopPLogitsWarper(value),
    "min_p": lambda value, _: MinPLogitsWarper(value),
    # The processor refuses 0; this keeps one token, which is what 0 says.
    "typical_p": lambda value, _: TypicalLogitsWarper(max(value, 1e-6)),
}
"""Applied after them, in this order, when the choice is random."""


@dataclass(slots=True)
class Sampler:
    """How one request picks its tokens. Its generator is its own, so that a seed means the
    same whoever else is being served. `seed` is the one in use (-1 was replaced)."""

    params: SamplingParams
    eos_ids: frozenset[int]
    seed: int = field(init=False)
    _processors: LogitsProcessorList = field(init=False)
    _generator: torch.Generator | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.seed = self.params.seed if self.params.seed >= 0 else secrets.randbelow(2**31)
        table = PENALTIES if self.params.greedy else {**PENALTIES, **WARPERS}
        about = knobs()
        self._processors = LogitsProcessorList(
            make(value, self.eos_ids)
            for name, make in table.items()
            if (value := getattr(self.params, name)) != about[name].neutral
        )

    def process(self, logits: Tensor, token_ids: list[int]) -> Tensor:
        """The logits [vocab] with every parameter applied; the same tensor when none is."""
        if not self._processors:
            return logits
        context: Any = torch.tensor([token_ids], device=logits.device)
        scores: Any = logits[None]
        processed: Tensor = self._processors(context, scores)[0]
        return processed

    def sample(self, logits: Tensor, token_ids: list[int]) -> int:
        """The next token from float32 logits [vocab], after the tokens so far.

        Raises EngineError for logits that are no numbers.
        """
        # max() passes NaN on, so this one reduction finds NaN, +inf and "all -inf".
        if not torch.isfinite(logits.max()):
            raise EngineError(
                "The model produced numbers that are not finite.",
                "Try dtype bfloat16 or float32; if it happens again, the weights are damaged.",
            )
        scores = self.process(logits, token_ids)
        if self.params.greedy:
            return int(scores.argmax())
        if self._generator is None:
            self._generator = torch.Generator(logits.device).manual_seed(self.seed)
        probabilities = scores.softmax(dim=-1)
        return int(torch.multinomial(probabilities, 1, generator=self._generator))


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
