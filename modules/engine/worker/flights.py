"""`Flights`: decode steps that are launched before the tokens of the step before are seen.

The tokens are drawn on the device and go into the next step there. So the card never waits for
what the processor does with a token (text, events, the next launch), which for many replies is
as much as a fifth of a step. Who turns out to have ended was computed once too often, and what
became of that is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from modules.engine.worker.decoding.method import Method
from modules.engine.worker.decoding.prompt_lookup import PromptLookup
from modules.engine.worker.sampler import not_finite
from modules.engine.worker.sampling.batch.row import Row
from modules.engine.worker.sampling.batch.sampler import BatchSampler
from modules.engine.worker.sequence import Sequence, Track

__all__ = ["Flight", "FlightRunner", "Flights"]


class FlightRunner(Protocol):
    """The part of a runner that can compute tokens which only the device knows."""

    def decode(self, tracks: list[Track], tokens: Tensor | None = None) -> Tensor:
        """As `Runner.decode`; `tokens` int64 [tracks] are computed in the place of their own."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Flight:
    """A step under way: the tokens of `seqs` on the device, and the copy that the host reads."""

    seqs: list[Sequence]
    tokens: Tensor
    copied: Tensor
    landed: torch.cuda.Event | None

    def land(self) -> Iterator[tuple[Sequence, int, bool]]:
        """Each token, and whether its logits were numbers. Waits for them."""
        if self.landed is not None:
            self.landed.synchronize()
        tokens, numbers = self.copied.tolist()
        for seq, token_id, number in zip(self.seqs, tokens, numbers, strict=True):
            yield seq, token_id, bool(number)


class Flights:
    """Launches them, for requests that sample plainly."""

    def __init__(self, runner: FlightRunner, sampler: BatchSampler) -> None:
        self._runner = runner
        self._sampler = sampler

    def board(self, seq: Sequence) -> None:
        """Give a sequence that can fly what it needs for that, before its first draw.

        One that drafts flies between its drafts, if its sampler does not look back: what the
        device remembers of a reply cannot be undone.
        """
        method = seq.method
        if (
            type(method) not in (Method, PromptLookup)
            or seq.request.logprobs is not None
            or seq.look is not None
            or seq.embed is not None
            or not BatchSampler.fits(seq.sampler)
        ):
            return
        row = self._sampler.begin(seq.sampler, seq.token_ids)
        if isinstance(method, PromptLookup):
            if not row.forgetful:
                return
            method.draw_together = partial(self._several, row)
        seq.row = row

    def _several(self, row: Row, logits: Tensor) -> list[int]:
        """What `row` draws next from the logits [n, vocab] of places that follow each other.

        Raises EngineError for logits that are no numbers.
        """
        rows = [replace(row, drawn=row.drawn + place) for place in range(len(logits))]
        tokens, numbers = self._sampler.sample(logits, rows)
        if not bool(numbers.all()):
            raise not_finite()
        found: list[int] = tokens.tolist()
        return found

    def first(self, seq: Sequence, logits: Tensor) -> tuple[int, bool]:
        """The token after logits [vocab], and whether these were numbers."""
        assert seq.row is not None
        tokens, numbers = self._sampler.sample(logits[None], [seq.row])
        return int(tokens[0]), bool(numbers[0])

    def launch(self, seqs: list[Sequence], before: Flight | None) -> Flight:
        """The next step of `seqs`. The last tokens of those in `before` are still under way."""
        logits = self._runner.decode(list(seqs), self._last(seqs, before))
        tokens, numbers = self._sampler.sample(logits, [seq.row for seq in seqs if seq.row])
        both = torch.stack([tokens, numbers.long()])
        if not both.is_cuda:
            return Flight(seqs, tokens, both, None)
        copied = torch.empty(both.shape, dtype=both.dtype, pin_memory=True)
        copied.copy_(both, non_blocking=True)
        landed = torch.cuda.Event()  # type: ignore[no-untyped-call]
        landed.record()
        return Flight(seqs, tokens, copied, landed)

    @staticmethod
    def _last(seqs: list[Sequence], before: Flight | None) -> Tensor | None:
        """Their last tokens on the device, or None where the host knows all."""
        if before is None or not set(seqs) & set(before.seqs):
            return None
        if before.seqs == seqs:
            return before.tokens
        places = {seq: place for place, seq in enumerate(before.seqs)}
        known = [seq for seq in seqs if seq not in places]
        host = torch.tensor([seq.token_ids[-1] for seq in known], dtype=torch.int64)
        order = [places[seq] if seq in places else len(places) + known.index(seq) for seq in seqs]
        taken = torch.tensor(order, dtype=torch.int64)
        if before.tokens.is_cuda:
            host, taken = host.pin_memory(), taken.pin_memory()
        device = before.tokens.device
        together = torch.cat([before.tokens, host.to(device, non_blocking=True)])
        return together[taken.to(device, non_blocking=True)]
