"""`Sequence`: one request on its way through the engine, and the `Track`s it is computed in."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from modules.engine.mix import Mix, checked_mix
from modules.engine.protocol import (
    Embed,
    Finished,
    FinishReason,
    GenerateRequest,
    NextTokens,
    TokenLogprob,
    Usage,
)
from modules.engine.worker.detokenizer import Detokenizer
from modules.engine.worker.sampler import Sampler, token_logprob

if TYPE_CHECKING:
    from modules.engine.worker.decoding.method import Method
    from modules.engine.worker.sampling.batch.row import Row

__all__ = ["Sequence", "Track"]


@dataclass(slots=True, eq=False, kw_only=True)
class Track:
    """Tokens with a KV cache of their own: what a runner computes.

    The first `computed` of `token_ids` are in the cache, and there will be at most
    `max_tokens`. A runner that can tell whose forward failed notes it in `error`. Where
    `hidden` is a list, the runner appends the last layer's states, [tokens, width] and
    float32, of all that it computes, which then is the whole prompt.
    """

    id: str
    token_ids: list[int]
    max_tokens: int
    mix: Mix
    computed: int = 0
    error: Exception | None = None
    hidden: list[Tensor] | None = None


@dataclass(slots=True, eq=False, kw_only=True)
class Sequence(Track):
    """The tokens of a request, how far they are computed, and what they became.

    `token_ids` is the prompt and the reply so far, without an end token; `cached_tokens` of
    the prompt were in a cache before. The reply ends at `max_tokens` tokens in all, or at
    one of `end_ids`. `mix` is what the request's LoRAs come to, and `method` is how tokens
    are made of its logits. With `look` or `embed`, none is drawn. `row` is
    its state where tokens are drawn for many sequences at once.
    """

    request: GenerateRequest
    end_ids: frozenset[int]
    sampler: Sampler
    detokenizer: Detokenizer
    tokenizer: PreTrainedTokenizerBase
    id: str = field(init=False)
    mix: Mix = field(init=False)
    method: Method = field(init=False)
    prompt_tokens: int = field(init=False)
    cached_tokens: int = 0
    look: NextTokens | None = None
    embed: Embed | None = None
    row: Row | None = None
    arrived: float = field(default_factory=time.perf_counter)
    first_token_at: float = 0.0
    last_token_at: float = 0.0

    def __post_init__(self) -> None:
        self.id = self.request.id
        self.prompt_tokens = len(self.token_ids)
        self.mix = checked_mix(self.request.adapters or ())

    @property
    def full(self) -> bool:
        """Whether the limit of the request or of the context is reached."""
        return len(self.token_ids) >= self.max_tokens

    def append(self, token_id: int) -> str:
        """Take the next token of the reply; returns the text that may be shown."""
        self.token_ids.append(token_id)
        return self.detokenizer.push(token_id)

    def logprobs(self, logits: Tensor, token_id: int) -> tuple[TokenLogprob, ...]:
        """What the request wants to know of a token that follows logits [vocab]."""
        wanted = self.request.logprobs
        if wanted is None:
            return ()
        return (token_logprob(logits, token_id, wanted, self.tokenizer),)

    def mark_time(self) -> None:
        """Note that a token came out of the model now."""
        self.last_token_at = time.perf_counter()
        self.first_token_at = self.first_token_at or self.last_token_at

    def finished(self, reason: FinishReason) -> Finished:
        """The last event of a sequence that was served."""
        usage = Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=len(self.token_ids) - self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            first_token_s=max(0.0, self.first_token_at - self.arrived),
            decode_s=self.last_token_at - self.first_token_at,
        )
        return Finished(self.id, reason, usage, self.sampler.seed)
