"""Short ways to ask the engine, and to hold what it answers."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modules.engine.params import SamplingParams
from modules.engine.protocol import (
    AdapterInfo,
    Event,
    Failed,
    Finished,
    GenerateRequest,
    TokenChunk,
)
from modules.engine.worker.llama.blocks import BLOCK
from modules.engine.worker.llama.runner import LlamaRunner
from modules.engine.worker.runner import TransformersRunner
from modules.engine.worker.scheduler import Scheduler
from modules.engine.worker.sequence import Sequence, Track

__all__ = ["ENDLESS", "PROMPT", "Reply", "Spy", "ask", "collect", "serve"]

PROMPT = "the capital of france is"
ENDLESS: dict[str, Any] = {"ban_eos_token": True, "max_new_tokens": 8192}
_OWN = ("special_tokens", "logprobs", "adapters")


def ask(id: str = "a", prompt: str = PROMPT, **options: Any) -> GenerateRequest:  # noqa: A002
    """A request; options that are not its own are sampling parameters, greedy by default."""
    own = {k: options.pop(k) for k in _OWN if k in options}
    params = SamplingParams.neutral(**{"do_sample": False, "max_new_tokens": 12, **options})
    return GenerateRequest(id, prompt, params, **{"special_tokens": False, **own})


@dataclass
class Reply:
    """The events of one request."""

    chunks: list[TokenChunk] = field(default_factory=list)
    end: Finished | Failed | None = None

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def tokens(self) -> int:
        return sum(chunk.tokens for chunk in self.chunks)

    @property
    def finished(self) -> Finished:
        assert isinstance(self.end, Finished), self.end
        return self.end

    @property
    def failed(self) -> Failed:
        assert isinstance(self.end, Failed), self.end
        return self.end


def collect(replies: dict[str, Reply], events: Iterable[Event]) -> None:
    """Sort events by their request."""
    for event in events:
        reply = replies.setdefault(event.id, Reply())
        assert reply.end is None, "nothing follows the last event"
        if isinstance(event, TokenChunk):
            reply.chunks.append(event)
        else:
            reply.end = event


def serve(scheduler: Scheduler, requests: Iterable[GenerateRequest]) -> dict[str, Reply]:
    """Run a scheduler until it has nothing to do."""
    replies: dict[str, Reply] = {}
    for request in requests:
        scheduler.add(request)
    while scheduler.has_work:
        collect(replies, scheduler.step())
    return replies


class Spy:
    """A runner that notes the tokens of each sequence, and can fail or lie on demand.

    `started` are the tracks in order, and `computed` is how many tokens each forward had.
    `poison` is what a logit of a track becomes when it is decoded, and what `poisoned` requests
    compute is no number at all.
    """

    def __init__(self, runner: TransformersRunner | LlamaRunner) -> None:
        self.inner = runner
        self.replies: dict[str, list[int]] = {}
        self.started: list[str] = []
        self.computed: list[int] = []
        self.poison: dict[str, float] = {}
        self.poisoned: set[str] = set()
        self.out_of_memory: set[str] = set()

    def forget(self) -> None:
        """Drop what is kept of those who ended, so that each request computes its prompt."""
        if isinstance(self.inner, LlamaRunner):
            self.inner._pool.clear()
        else:
            self.inner._kept.clear()

    def held(self) -> set[str]:
        """Whose caches are in use."""
        inner = self.inner
        return set(inner._tables if isinstance(inner, LlamaRunner) else inner._caches)

    def shared(self, tokens: int) -> int:
        """How many of so many known tokens a prompt takes over."""
        return tokens // BLOCK * BLOCK if isinstance(self.inner, LlamaRunner) else tokens

    def start(self, track: Track) -> int:
        self.started.append(track.id)
        return self.inner.start(track)

    def has_room(self, track: Track) -> bool:
        return self.inner.has_room(track)

    def prefill(self, track: Track, count: int) -> Tensor | None:
        before = track.computed
        logits = self.inner.prefill(track, count)
        self.computed.append(track.computed - before)
        return None if logits is None else self._logits(logits[None], [track])[0]

    def decode(self, tracks: Collection[Track], *tokens: Tensor | None) -> Tensor:
        logits = self._logits(self.inner.decode(tracks, *tokens), tracks)
        self.computed.extend(1 for _ in tracks)
        for row, track in zip(logits, tracks, strict=True):
            if track.id in self.poison:
                row[3] = self.poison[track.id]
            if track.id in self.out_of_memory:
                track.error = torch.OutOfMemoryError("CUDA out of memory")
        return logits

    def extend(self, track: Track, ids: list[int]) -> Tensor:
        self.computed.append(len(ids))
        return self._logits(self.inner.extend(track, ids), [track] * len(ids))

    def rewind(self, track: Track, length: int) -> None:
        self.inner.rewind(track, length)

    def fork(self, track: Track, copy: Track) -> None:
        self.inner.fork(track, copy)

    def load_adapter(self, name: str, folder: Path, probe: list[int]) -> AdapterInfo:
        return self.inner.load_adapter(name, folder, probe)

    def unload_adapter(self, name: str) -> None:
        self.inner.unload_adapter(name)

    def release(self, track: Track, keep: bool = True) -> None:
        if isinstance(track, Sequence):
            self.replies[track.id] = track.token_ids[track.prompt_tokens :]
        self.inner.release(track, keep)

    def _logits(self, logits: Tensor, tracks: Collection[Track]) -> Tensor:
        """A copy, for those of inference mode cannot be written to."""
        bad = [track.id.partition("/")[0] in self.poisoned for track in tracks]
        return logits.masked_fill(torch.tensor(bad)[:, None], torch.nan)
