"""`State`: what was said in each request, kept on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modules.engine.worker.sampling.batch.row import Row
from modules.engine.worker.sampling.batch.uploads import Uploads

__all__ = ["State"]

_SLOTS = 17
_TOKENS = 1024


class State:
    """Tables with one row a slot, so that a step reads and writes those of all requests at once.

    Slot 0 belongs to nobody: what need not be kept is written there. `limits` are
    Mirostat's μ [slots], and `averages` those of the adaptive target, both float32.
    """

    def __init__(self, vocab: int, uploads: Uploads) -> None:
        self.vocab = vocab
        self.uploads = uploads
        device = uploads.device
        self.limits = torch.zeros(_SLOTS, device=device)
        self.averages = torch.zeros(_SLOTS, device=device)
        # Token ids; the first one of slot 0 stands for "no token".
        self._history = torch.full((_SLOTS, _TOKENS), vocab, dtype=torch.long, device=device)
        # How often each occurred. The column past the vocabulary takes ids without a logit.
        self._counts: Tensor | None = None
        self._one = torch.ones(1, device=device)
        self._free = list(range(_SLOTS - 1, 0, -1))

    def take(self) -> int:
        """A slot that is free."""
        if not self._free:
            slots = len(self.limits)
            self._free = list(range(2 * slots - 1, slots - 1, -1))
            self.limits = _grown(self.limits, (2 * slots,))
            self.averages = _grown(self.averages, (2 * slots,))
            self._history = _grown(self._history, (2 * slots, self._history.shape[1]))
            if self._counts is not None:
                self._counts = _grown(self._counts, (2 * slots, self.vocab + 1))
        return self._free.pop()

    def give_back(self, slot: int) -> None:
        """Let a slot be taken again."""
        self._free.append(slot)

    def begin(self, row: Row, prompt_ids: Sequence[int]) -> None:
        """Note the prompt of a request, as far as its parameters ask for it."""
        params = row.params
        self.limits[row.slot].fill_(2 * params.mirostat_tau)
        self.averages[row.slot].fill_(params.adaptive_target)
        if not (row.counted or row.read) or not prompt_ids:
            ids = None
        else:
            ids = self.uploads.ints(prompt_ids)
        if row.read:
            self._reserve(row.length)
            if ids is not None:
                self._history[row.slot, : row.length].copy_(ids)
        if row.counted:
            counts = self.table[row.slot].zero_()
            if ids is not None:
                ids = ids[-params.repetition_penalty_range :].clamp(max=self.vocab)
                counts.scatter_add_(0, ids, torch.ones_like(ids, dtype=counts.dtype))

    def begins(self, rows: Sequence[Row]) -> Tensor:
        """Where the counts [n] of rows begin; slot 0 has those of rows that need none."""
        slots = [row.slot if row.counted else 0 for row in rows]
        return self.uploads.ints([slot * (self.vocab + 1) for slot in slots])

    def counts(self, slots: Tensor, first: int | None) -> Tensor:
        """How often each token occurred, within the range of its row: float32 [n, vocab].

        `first` is the first of the slots, if the others follow in order.
        """
        table = self.table
        if first is None:
            return table.index_select(0, slots)[:, : self.vocab]
        return table[first : first + len(slots), : self.vocab]

    def last(self, rows: Sequence[Row], spans: Sequence[int]) -> Tensor:
        """The last tokens of rows, as many as `spans` says: [n, longest], -1 before them."""
        history = self._history
        # Widths in steps, so that the allocator finds memory of the same size again.
        width = -(-max(*spans, 1) // 64) * 64
        ends = self.uploads.ints([row.slot * history.shape[1] + row.length for row in rows])
        back = torch.arange(-width, 0, device=history.device)
        ids = history.take((ends[:, None] + back).clamp_(min=0))
        return ids.where(back >= -self.uploads.ints(spans)[:, None], -1)

    def write(self, rows: Sequence[Row], tokens: Tensor) -> None:
        """Note the tokens [n] that come after what the rows have."""
        reading = [row.length for row in rows if row.read]
        if reading:
            self._reserve(max(reading))
            width = self._history.shape[1]
            places = [row.slot * width + row.length if row.read else 1 for row in rows]
            self._history.view(-1).scatter_(0, self.uploads.ints(places), tokens)

    def count(self, begins: Tensor, tokens: Tensor) -> None:
        """Count tokens [n] in the rows of the table that begin at `begins` [n]."""
        self.table.view(-1).scatter_add_(0, begins + tokens, self._one.expand(len(tokens)))

    def drop_passed(self, begins: Tensor, rows: Sequence[Row]) -> None:
        """Count no more what the ranges of rows will have passed after the next token."""
        width = self._history.shape[1]
        places = [row.length - row.params.repetition_penalty_range for row in rows]
        leaving = [
            row.slot * width + place if row.ranged and place >= 0 else 0
            for row, place in zip(rows, places, strict=True)
        ]
        if any(leaving):
            gone = self._history.take(self.uploads.ints(leaving)).clamp_(max=self.vocab)
            less = (-self._one).expand(len(rows))
            self.table.view(-1).scatter_add_(0, begins + gone, less)

    @property
    def table(self) -> Tensor:
        """All counts, float32 [slots, vocab + 1]; those of a row begin where `begins` says."""
        if self._counts is None:
            self._counts = self.limits.new_zeros((len(self.limits), self.vocab + 1))
        return self._counts

    def _reserve(self, length: int) -> None:
        slots, width = self._history.shape
        if length >= width:
            self._history = _grown(self._history, (slots, 2 * length))


def _grown(table: Tensor, shape: tuple[int, ...]) -> Tensor:
    larger = table.new_zeros(shape)
    larger[tuple(slice(size) for size in table.shape)] = table
    return larger
