"""`Sequence`: one request on its way through the engine."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from modules.engine.mix import Mix, checked_mix
from modules.engine.protocol import Finished, FinishReason, GenerateRequest, Usage
from modules.engine.worker.detokenizer import Detokenizer
from modules.engine.worker.sampler import Sampler

__all__ = ["Sequence"]


@dataclass(slots=True, eq=False)
class Sequence:
    """The tokens of a request, how far they are computed, and what they became.

    `token_ids` is the prompt and the reply so far, without an end token. The first
    `computed` of them are in the KV cache; `cached_tokens` of the prompt were there before.
    The reply ends at `max_tokens` tokens in all, or at one of `end_ids`. A runner that can
    tell whose forward failed notes it in `error`. `mix` is what the request's LoRAs come to.
    """

    request: GenerateRequest
    token_ids: list[int]
    max_tokens: int
    end_ids: frozenset[int]
    sampler: Sampler
    detokenizer: Detokenizer
    prompt_tokens: int = field(init=False)
    mix: Mix = field(init=False)
    computed: int = 0
    cached_tokens: int = 0
    error: Exception | None = None
    arrived: float = field(default_factory=time.perf_counter)
    first_token_at: float = 0.0
    last_token_at: float = 0.0

    def __post_init__(self) -> None:
        self.prompt_tokens = len(self.token_ids)
        self.mix = checked_mix(self.request.adapters or ())

    @property
    def id(self) -> str:
        """The id of the request."""
        return self.request.id

    @property
    def full(self) -> bool:
        """Whether the limit of the request or of the context is reached."""
        return len(self.token_ids) >= self.max_tokens

    def append(self, token_id: int) -> str:
        """Take the next token of the reply; returns the text that may be shown."""
        self.token_ids.append(token_id)
        self.mark_time()
        return self.detokenizer.push(token_id)

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
