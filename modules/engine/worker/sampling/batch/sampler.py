"""`BatchSampler`: from the logits of a decode step to the next token of every row."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

from modules.engine.worker.kernels.choose import Chooser
from modules.engine.worker.sampler import Sampler
from modules.engine.worker.sampling.batch.plan import Plan, make_plan
from modules.engine.worker.sampling.batch.row import Row, make_row
from modules.engine.worker.sampling.batch.state import State
from modules.engine.worker.sampling.batch.uploads import Uploads

__all__ = ["BatchSampler"]

log = logging.getLogger(__name__)


class BatchSampler:
    """Draws for many requests at once, each with parameters and a seed of its own.

    What a row draws depends on its logits, its parameters, its seed and the number of the
    draw, and not on who else is in the batch. Nothing waits for the device: the next step may
    be launched before a token was seen. All calls are to be made on one stream.
    """

    def __init__(self, vocab: int, device: torch.device) -> None:
        self.vocab = vocab
        self._state = State(vocab, Uploads(device))
        self._planned: tuple[tuple[Row, bool], ...] = ()
        self._plan: Plan | None = None
        self._chooser = _chooser(vocab, device) if device.type == "cuda" else None

    @staticmethod
    def fits(sampler: Sampler) -> bool:
        """Whether a request can be served here: any whose form the host need not follow."""
        return sampler.structure is None and sampler.hooks is None

    @torch.inference_mode()
    def begin(self, sampler: Sampler, prompt_ids: Sequence[int]) -> Row:
        """A row for a request that `fits`, before its first draw.

        Its place is free again when the row is forgotten.
        """
        slot = self._state.take()
        row = make_row(sampler, prompt_ids, self.vocab, slot)
        weakref.finalize(row, self._state.give_back, slot)
        self._state.begin(row, prompt_ids)
        return row

    @torch.inference_mode()
    def sample(self, logits: Tensor, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """The next token of each row, from float32 logits [rows, vocab].

        Returns token ids [rows], int64, and whether each row's logits were numbers, bool
        [rows]; where they were not, the token is 0. Each row is to be there once.
        """
        plan = self._planned_for(rows)
        if plan.plain:
            highest, tokens = logits.max(-1)
            # What is infinite or no number is not 0 less itself.
            ok = (highest - highest) == 0
            tokens = tokens * ok
        else:
            highest = logits.amax(-1)
            ok = (highest - highest) == 0
            tokens = plan.draw(logits, ok)
        plan.note(tokens)
        return tokens, ok

    @torch.inference_mode()
    def process(self, logits: Tensor, rows: Sequence[Row]) -> Tensor:
        """The scores [rows, vocab] that `sample` would draw from; nothing is drawn."""
        result = torch.full_like(logits, -torch.inf)
        for group in self._planned_for(rows).groups:
            field = group.process(logits)
            scores = field.in_order()
            if field.ids is not None:
                full = scores.new_full((len(scores), self.vocab), -torch.inf)
                scores = full.scatter_(1, field.ids, scores)
            if group.places is None:
                return scores
            result.index_copy_(0, group.places, scores)
        return result

    def _planned_for(self, rows: Sequence[Row]) -> Plan:
        key = tuple((row, row.short) for row in rows)
        if self._plan is None or key != self._planned:
            self._planned, self._plan = key, make_plan(rows, self._state, self._chooser)
        return self._plan


def _chooser(vocab: int, device: torch.device) -> Chooser | None:
    try:
        return Chooser(vocab, device)
    except (RuntimeError, OSError) as error:
        log.warning("The kernel `choose` cannot be used, so sampling is slower: %s", error)
        return None
