"""`DecodeGraphs`: decode steps as captured CUDA graphs, for a ladder of row counts.

A step of a 7B model is some two hundred kernels, which take longer to launch than to run; a graph
is launched at once. Rows that are missing to the next rung are padding. What goes into a step is
written to the same tensors each time, by one copy.
"""

from __future__ import annotations

import gc
import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modules.engine.worker.llama.batch import Row, RowBatch
from modules.loader.fast_runner import LADDER

__all__ = ["DecodeGraphs", "Step"]

log = logging.getLogger(__name__)

_KEPT = 48
"""Graphs at most; one of a 7B model takes some 10 MB."""

Step = Callable[[RowBatch], Tensor]
"""From rows to their logits [rows, vocabulary]."""


class DecodeGraphs:
    """Runs steps of up to 32 rows, each row with up to `blocks` blocks.

    A graph belongs to a rung and a `key`, which says what the step adds for LoRAs.
    """

    def __init__(self, device: torch.device, blocks: int) -> None:
        self._inputs = _Inputs(device, LADDER[-1], blocks)
        self._graphs: OrderedDict[tuple[int, Hashable], _Graph] = OrderedDict()
        self._pool: object = None
        self._without: set[tuple[int, Hashable]] = set()
        # One for all, as each stream has workspaces of its own that stay.
        self._warming: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def capture(self, rungs: Sequence[int], key: Hashable, step: Step) -> None:
        """Capture ahead, the largest rung first, so that the others share its memory.

        Rungs that cannot be captured, for want of memory mostly, stay without a graph, and the log
        says so.
        """
        for rung in sorted(rungs, reverse=True):
            # A capture computes, too: with the rows of the step before, it would write over their
            # keys and values, or over those of whoever has the blocks by now.
            self._inputs.write([], rung, None)
            self._graph(rung, key, step)

    def run(
        self,
        rows: Sequence[Row],
        key: Hashable,
        make_step: Callable[[], Step],
        tokens: Tensor | None = None,
    ) -> Tensor:
        """The logits [rows, vocabulary], valid until the next step.

        `make_step` is asked for what to capture where there is no graph yet. `tokens` int64 [rows]
        on the device stand for those of the rows.
        """
        rung = next(size for size in LADDER if size >= len(rows))
        self._inputs.write(rows, rung, tokens)
        graph = self._graphs.get((rung, key)) or self._graph(rung, key, make_step())
        if graph is None:
            return make_step()(self._inputs.batch(rung))[: len(rows)]
        self._graphs.move_to_end((rung, key))
        graph.replay()
        return graph.logits[: len(rows)]

    def forget(self, wanted: Callable[[Hashable], bool]) -> None:
        """Drop the graphs of keys that are not wanted."""
        for rung, key in list(self._graphs):
            if not wanted(key):
                del self._graphs[rung, key]
        self._without = {(rung, key) for rung, key in self._without if wanted(key)}

    def _graph(self, rung: int, key: Hashable, step: Step) -> _Graph | None:
        """What is captured, now if it was not yet; None where it cannot be."""
        found = self._graphs.get((rung, key))
        if found is not None or (rung, key) in self._without:
            return found
        try:
            found = _Graph(self._inputs.batch(rung), step, self._pool, self._warming)
        except RuntimeError as error:  # which the errors of memory and of CUDA are, too
            self._without.add((rung, key))
            short = isinstance(error, torch.OutOfMemoryError)
            why = "memory is short" if short else str(error).partition("\n")[0]
            log.warning("Steps of %d rows are computed without a graph: %s.", rung, why)
            return None
        self._pool = found.graph.pool()
        self._graphs[rung, key] = found
        while len(self._graphs) > _KEPT:
            self._graphs.popitem(last=False)
        return found


class _Graph:
    """One captured step."""

    def __init__(self, batch: RowBatch, step: Step, pool: object, stream: Any) -> None:
        self._step = step  # it has tensors that the graph reads
        self.graph = torch.cuda.CUDAGraph()
        # Outside first, on another stream as torch asks for: kernels are compiled then.
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            step(batch)
        torch.cuda.current_stream().wait_stream(stream)
        with _uncollected(), torch.cuda.graph(self.graph, pool=pool):  # type: ignore[arg-type]
            self.logits = step(batch)
        self.replay = self.graph.replay


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection: what it frees (another graph, say) can end a capture."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class _Inputs:
    """The tensors that graphs read, and their likeness in the processor's memory.

    There are two likenesses in turn, as one may still be on its way while the next is written.
    """

    def __init__(self, device: torch.device, rows: int, blocks: int) -> None:
        self._rows = rows
        size = 4 * rows + rows * blocks
        self._device = torch.zeros(size, dtype=torch.int32, device=device)
        self._device[2 * rows : 3 * rows] = -1  # slots: what is captured ahead writes nothing
        self._tokens = torch.zeros(rows, dtype=torch.int64, device=device)
        self._sides = [_Side(size, rows) for _ in range(2)]

    def batch(self, rung: int) -> RowBatch:
        """The tensors of the first `rung` rows."""
        columns = self._device[: 4 * self._rows].view(4, self._rows)[:, :rung]
        tables = self._device[4 * self._rows :].view(self._rows, -1)[:rung]
        _, positions, slots, lengths = columns.unbind()
        return RowBatch(self._tokens[:rung], positions, slots, lengths, tables)

    def write(self, rows: Sequence[Row], rung: int, tokens: Tensor | None) -> None:
        """Let graphs of `rung` rows compute these."""
        self._sides.reverse()
        side = self._sides[0]
        side.wait()
        side.write(rows, rung)
        used = 4 * self._rows + rung * side.tables.shape[1]
        self._device[:used].copy_(side.pinned[:used], non_blocking=True)
        side.sent()
        if tokens is None:
            self._tokens[:rung].copy_(self._device[:rung])
        else:
            self._tokens[: len(rows)].copy_(tokens)


class _Side:
    """One likeness: columns of tokens, positions, slots and lengths, then the tables."""

    def __init__(self, size: int, rows: int) -> None:
        self.pinned = torch.zeros(size, dtype=torch.int32).pin_memory()
        flat = self.pinned.numpy()
        self.columns = flat[: 4 * rows].reshape(4, rows)
        self.tables = flat[4 * rows :].reshape(rows, -1)
        self._written: list[list[int]] = [[] for _ in range(rows)]
        self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        """Until the card has read what was sent last."""
        self._done.synchronize()

    def sent(self) -> None:
        """Note that a copy is under way."""
        self._done.record()

    def write(self, rows: Sequence[Row], rung: int) -> None:
        """Write rows, and padding up to `rung`."""
        columns = [(max(r.token, 0), r.position, r.slot, r.position + 1) for r in rows]
        columns += [(0, 0, -1, 0)] * (rung - len(rows))
        self.columns[:, :rung] = np.array(columns, dtype=np.int32).T
        for number, row in enumerate(rows):
            blocks = row.table.blocks
            if self._written[number] != blocks:  # microseconds, where writing takes ten times that
                self.tables[number, : len(blocks)] = blocks
                self._written[number] = blocks.copy()
