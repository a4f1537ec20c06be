"""Asking the engine as its clients do, and when each token of the answer came."""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from modules.engine.local import LocalEngine
from modules.engine.params import SamplingParams
from modules.engine.protocol import (
    Finished,
    GenerateRequest,
    TokenChunk,
    TokenLogprob,
    Usage,
)

__all__ = ["Asker", "Reply", "greedy", "percentile", "sampled", "window_speed"]

_WINDOW = 16
"""Tokens that a steady speed is taken over: the worker may send several at once."""


def greedy(tokens: int) -> SamplingParams:
    """The likeliest token, `tokens` times; no end, so that every run is as long."""
    return SamplingParams.neutral(temperature=0, max_new_tokens=tokens, ban_eos_token=True)


def sampled(tokens: int, seed: int) -> SamplingParams:
    """The preset simple-1, which is what the page begins with."""
    return SamplingParams.neutral(
        temperature=0.7,
        top_p=0.9,
        top_k=20,
        repetition_penalty=1.15,
        seed=seed,
        max_new_tokens=tokens,
        ban_eos_token=True,
    )


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply as it came to the client: seconds of one clock, an arrival for each token."""

    sent: float
    arrivals: tuple[float, ...]
    texts: tuple[str, ...]
    logprobs: tuple[TokenLogprob, ...]
    usage: Usage

    @property
    def first_token_s(self) -> float:
        """From the request to its first token."""
        return self.arrivals[0] - self.sent

    @property
    def tokens_per_s(self) -> float:
        """The tokens after the first one, over the time from it to the last."""
        taken = self.arrivals[-1] - self.arrivals[0]
        return (len(self.arrivals) - 1) / taken if taken > 0 else 0.0

    @property
    def gaps(self) -> list[float]:
        """Seconds from each token to the next."""
        return [late - early for early, late in itertools.pairwise(self.arrivals)]


@dataclass(slots=True)
class Asker:
    """A client of one engine whose prompts have nothing in common."""

    engine: LocalEngine
    seeds: itertools.count[int] = field(default_factory=itertools.count)

    async def fresh_prompt(self, tokens: int) -> str:
        """A text of so many tokens that begins as none before it, so that nothing is cached."""
        chance = random.Random(next(self.seeds))
        letters = "abcdefghijklmnopqrstuvwxyz      "
        text = "".join(chance.choices(letters, k=8 * tokens)).strip()
        encoded = await self.engine.encode(text)
        return "".join(encoded.texts[:tokens])

    async def ask(self, prompt: str, params: SamplingParams, logprobs: int | None = None) -> Reply:
        """The whole reply."""
        name = f"ask-{next(self.seeds)}"
        request = GenerateRequest(name, prompt, params, special_tokens=False, logprobs=logprobs)
        arrivals: list[float] = []
        texts: list[str] = []
        told: list[TokenLogprob] = []
        usage = Usage(0, 0)
        sent = time.perf_counter()
        async for event in self.engine.generate(request):
            match event:
                case TokenChunk():
                    arrivals += [time.perf_counter()] * event.tokens
                    texts.append(event.text)
                    told += event.logprobs
                case Finished():
                    usage = event.usage
        return Reply(sent, tuple(arrivals), tuple(texts), tuple(told), usage)


def window_speed(arrivals: Sequence[float]) -> float:
    """The steady speed: the median over all windows of 16 tokens, or over all if there are less."""
    window = min(_WINDOW, len(arrivals) - 1)
    if window < 1:
        return 0.0
    pairs = zip(arrivals, arrivals[window:], strict=False)
    taken = statistics.median(late - early for early, late in pairs)
    return window / taken if taken > 0 else 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0 to 1) of the values do not exceed, between two if need be."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
