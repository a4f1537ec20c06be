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
from modules.engine.worker.runner import Runner
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
    """A runner that notes the tokens of each sequence, and can fail or lie on demand."""

    def __init__(self, runner: Runner) -> None:
        self.inner = runner
        self.replies: dict[str, list[int]] = {}
        self.poison: dict[str, float] = {}
        self.out_of_memory: set[str] = set()

    def start(self, track: Track) -> int:
        return self.inner.start(track)

    def has_room(self, track: Track) -> bool:
        return self.inner.has_room(track)

    def prefill(self, track: Track, count: int) -> Tensor | None:
        return self.inner.prefill(track, count)

    def decode(self, tracks: Collection[Track], *tokens: Tensor | None) -> Tensor:
        logits = self.inner.decode(tracks, *tokens)
        for row, track in zip(logits, tracks, strict=True):
            if track.id in self.poison:
                row[3] = self.poison[track.id]
            if track.id in self.out_of_memory:
                track.error = torch.OutOfMemoryError("CUDA out of memory")
        return logits

    def extend(self, track: Track, ids: list[int]) -> Tensor:
        return self.inner.extend(track, ids)

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
