"""`LlamaRunner`: the fast `Runner`, with a paged cache, batched decode and captured graphs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from modules.engine.mix import Mix, require_applied
from modules.engine.protocol import AdapterInfo
from modules.engine.worker.adapters import Adapters
from modules.engine.worker.kernels.attention import DecodeAttention
from modules.engine.worker.kernels.cache_blocks import Blocks
from modules.engine.worker.kernels.checked import low_rank_kernels
from modules.engine.worker.kernels.low_rank import LowRankKernels
from modules.engine.worker.kernels.prefill import attend_chunk
from modules.engine.worker.kernels.rows import Places
from modules.engine.worker.kernels.tiled_linear import TiledLinear
from modules.engine.worker.llama.batch import Row, RowBatch
from modules.engine.worker.llama.blocks import BLOCK, BlockPool, Table
from modules.engine.worker.llama.graphs import DecodeGraphs
from modules.engine.worker.llama.lora import Mixes, RowMixes
from modules.engine.worker.llama.lora_stack import LoraStack
from modules.engine.worker.llama.model import Attend, LlamaModel
from modules.engine.worker.llama.processor_attention import RunAttention
from modules.engine.worker.sequence import Track
from modules.errors import EngineError
from modules.loader.fast_runner import LADDER

__all__ = ["LlamaRunner"]

log = logging.getLogger(__name__)

_MixesOf = Callable[[int], Mixes | None]
"""What LoRAs add in a forward of so many rows; asked anew by each, as a graph computes it anew."""

_MOST_ROWS = LADDER[-1]
_REPLY = 64
"""Tokens of a reply that there must be room for, so that it does not begin to end at once."""


class LlamaRunner:
    """Computes a `LlamaModel`. `attention` and `graphs` are for cards; None without.

    A prompt takes over the blocks that are known of it, whoever computed them; what a track has
    computed can be shared as soon as a block is full. A row's logits do not depend on who else is
    in its step, but for rounding: products and attention are divided by the number of rows, so
    the last bits of float16 numbers may differ between steps of different size.
    """

    def __init__(
        self,
        model: LlamaModel,
        adapters: Adapters,
        attention: DecodeAttention | None = None,
        graphs: DecodeGraphs | None = None,
    ) -> None:
        self._model = model
        self._adapters = adapters
        self._attention = attention
        self._graphs = graphs
        self._stack: LoraStack | None = None
        self._ranks: list[LowRankKernels | None] | None = None  # looked at once, and then in it
        self._pool = BlockPool(model.cache.blocks)
        self._tables: dict[str, Table] = {}
        self._device = model.cache.device

    def capture(self, rungs: Sequence[int]) -> None:
        """Capture the graphs of plain steps with so many rows."""
        if self._graphs is not None:
            self._graphs.capture(rungs, (), partial(self._step, _no_mixes))

    def start(self, track: Track) -> int:
        """Share what is known of the prompt.

        Raises EngineError for an unknown token, and AdapterError for an unknown LoRA.
        """
        require_applied(track.mix, self._adapters.names)
        # On a card an index past the embedding table ends every request, not this one alone.
        if max(track.token_ids) >= self._model.shape.vocabulary:
            raise EngineError(
                "The prompt contains a special token that the model has no embedding for.",
                "Remove it, or use the tokenizer that belongs to the model.",
            )
        # Of a known prefix there are keys and values, but not the states they were made from.
        known = track.token_ids if track.hidden is None else track.token_ids[:1]
        self._tables[track.id], track.computed = self._pool.start(known, track.mix)
        return track.computed

    def has_room(self, track: Track) -> bool:
        """Whether its tokens and some of its reply fit into blocks that nobody holds."""
        wanted = min(len(track.token_ids) + _REPLY, track.max_tokens)
        return self._pool.free * BLOCK >= wanted

    def prefill(self, track: Track, count: int) -> Tensor | None:
        """One forward over the next `count` prompt tokens. Raises CacheFullError."""
        ids = track.token_ids[track.computed :][:count]
        logits = self._chunk(track, ids, 1)[-1]
        return logits if track.computed == len(track.token_ids) else None

    def decode(self, tracks: Collection[Track], tokens: Tensor | None = None) -> Tensor:
        """One forward for all tracks; the logits are valid until the next call.

        `tokens` int64 [tracks] on the device are what is computed in the place of the tracks'
        own last tokens, which the processor need not know yet.
        """
        rows, going = [], list(tracks)
        for track in going:
            token = track.token_ids[track.computed] if tokens is None else -1
            rows.append(self._row(track, token, track.computed))
        logits = self._rows(rows, [track.mix for track in going], going, tokens)
        for track in going:
            track.computed += 1
        return logits

    def extend(self, track: Track, ids: list[int]) -> Tensor:
        """One forward over `ids`."""
        if len(ids) > _MOST_ROWS:
            return self._chunk(track, ids, len(ids))
        table = self._grown(track, track.computed + len(ids))
        rows = [Row(token, track.computed + i, table) for i, token in enumerate(ids)]
        logits = self._rows(rows, [track.mix] * len(ids), [track] * len(ids))
        track.computed += len(ids)
        return logits

    def rewind(self, track: Track, length: int) -> None:
        """Give back the blocks past `length`."""
        self._settle(track)
        self._copy(self._pool.rewind(self._tables[track.id], length))
        track.computed = length

    def fork(self, track: Track, copy: Track) -> None:
        """Share all full blocks."""
        self._tables[copy.id], copies = self._pool.fork(self._tables[track.id], track.computed)
        self._copy(copies)
        copy.computed = track.computed

    def release(self, track: Track, keep: bool = True) -> None:
        """Give up the blocks; those that are known stay until their room is wanted."""
        table = self._tables.pop(track.id, None)
        if table is not None:
            if keep:
                self._settle(track, table)
            self._pool.release(table)

    def load_adapter(self, name: str, folder: Path, probe: list[int]) -> AdapterInfo:
        """Read a LoRA, and lay it over the model."""
        info = self._adapters.load(name, folder, probe)
        self._restack()
        return info

    def unload_adapter(self, name: str) -> None:
        """Forget a LoRA, and what was computed with it."""
        self._adapters.unload(name)
        self._pool.forget(name)
        if self._graphs is not None:
            self._graphs.forget(lambda key: not _mentions(key, name))
        self._restack()

    def _restack(self) -> None:
        """Put together the LoRAs that are there; what was captured with others is dropped."""
        old, self._stack = self._stack, None
        if old is not None and self._graphs is not None:
            self._graphs.forget(lambda key: key is not old)
        chosen = LoraStack.chosen(self._adapters.low_rank())
        if not chosen:
            return
        products = self._model.weights.stacked_products()
        try:
            like = self._model.weights.embedding
            stack = LoraStack(chosen, products, like, _MOST_ROWS, self._low_rank())
        except torch.OutOfMemoryError:
            log.warning("Memory is short: replies with LoRAs are slower.")
            return
        self._stack = stack
        if self._graphs is not None:
            # The step of one chat, so that its next reply does not wait for it.
            self._graphs.capture([1], stack, partial(self._step, stack.first))

    def _low_rank(self) -> LowRankKernels | None:
        """What lets products add LoRAs on the way, where there are kernels for it."""
        first = self._model.weights.layers[0].o
        if not self._model.in_tiles or not isinstance(first, TiledLinear):
            return None
        if self._ranks is None:
            self._ranks = [low_rank_kernels(first.kernels, first.tiles)]
        return self._ranks[0]

    def _chunk(self, track: Track, ids: list[int], wanted: int) -> Tensor:
        """Compute `ids` after what is computed; the logits [wanted, vocab] of the last ones."""
        first, length = track.computed, track.computed + len(ids)
        table = self._grown(track, length)
        device = self._device
        positions = torch.arange(first, length, dtype=torch.int32, device=device)
        blocks = torch.tensor(table.blocks[: -(-length // BLOCK)], device=device)
        slots = blocks[(positions // BLOCK).long()].int() * BLOCK + positions % BLOCK
        places = Places(self._model.weights.cos_sin, positions, slots)
        attend: Attend = partial(_attend_chunk, blocks, length)
        mixes = self._uniform(track.mix, len(ids))
        tokens = torch.tensor(ids, device=device)
        hidden = self._model.hidden(tokens, places, attend, mixes)
        self._note([track] * len(ids), hidden)
        logits = self._model.logits(hidden[-wanted:], mixes)
        track.computed = length
        self._settle(track)
        return logits

    def _rows(
        self,
        rows: Sequence[Row],
        mixes: Sequence[Mix],
        tracks: Sequence[Track],
        tokens: Tensor | None = None,
    ) -> Tensor:
        """The logits of single tokens, in steps of as many as there are graphs for."""
        if len(rows) > _MOST_ROWS:
            halves = (slice(_MOST_ROWS), slice(_MOST_ROWS, None))
            found = [
                self._rows(
                    rows[half], mixes[half], tracks[half], None if tokens is None else tokens[half]
                ).clone()
                for half in halves
            ]
            return torch.cat(found)
        key, mixes_of = self._mixed(mixes)
        if self._graphs is None or any(track.hidden is not None for track in tracks):
            batch = RowBatch.of(rows, self._device)
            if tokens is not None:
                batch.tokens.copy_(tokens)
            return self._step(mixes_of(), batch, tracks)
        return self._graphs.run(rows, key, lambda: partial(self._step, mixes_of()), tokens)

    def _mixed(self, mixes: Sequence[Mix]) -> tuple[Hashable, Callable[[], _MixesOf]]:
        """What a step adds whose rows have these mixes, and the key of its graph."""
        if not any(mixes):
            return (), lambda: _no_mixes
        stack = self._stack
        if stack is None or not stack.covers(mixes):
            made = partial(RowMixes.of, self._adapters, mixes, self._device)
            return tuple(mixes), lambda: _always(made())
        stack.write(mixes)
        return stack, lambda: stack.first

    def _uniform(self, mix: Mix, rows: int) -> Mixes | None:
        """What is added to so many rows with one mix."""
        if mix and self._stack is not None and self._stack.covers([mix]):
            return self._stack.uniform(mix)
        return RowMixes.of(self._adapters, [mix] * rows, self._device)

    def _step(self, mixes_of: _MixesOf, batch: RowBatch, tracks: Sequence[Track] = ()) -> Tensor:
        places = Places(self._model.weights.cos_sin, batch.positions, batch.slots)
        mixes = mixes_of(len(batch.tokens))
        hidden = self._model.hidden(batch.tokens, places, self._attend(batch), mixes)
        self._note(tracks, hidden)
        return self._model.logits(hidden, mixes)

    def _attend(self, batch: RowBatch) -> Attend:
        attention = self._attention
        if attention is not None:
            return lambda q, keys, values: attention(q, keys, values, batch.tables, batch.lengths)
        shape = self._model.shape
        return RunAttention(batch.tables, batch.lengths, shape.head_dim**-0.5)

    def _row(self, track: Track, token: int, position: int) -> Row:
        self._settle(track)
        return Row(token, position, self._grown(track, position + 1))

    def _grown(self, track: Track, tokens: int) -> Table:
        table = self._tables[track.id]
        self._pool.grow(table, tokens)
        return table

    def _settle(self, track: Track, table: Table | None = None) -> None:
        """Let others share what is certain: a draft is computed, and not yet said."""
        certain = min(track.computed, len(track.token_ids))
        self._pool.settle(table or self._tables[track.id], track.token_ids, certain)

    def _copy(self, copies: list[tuple[int, int]]) -> None:
        for source, target in copies:
            self._model.cache.copy(source, target)

    @staticmethod
    def _note(tracks: Sequence[Track], hidden: Tensor) -> None:
        for track in dict.fromkeys(tracks):
            if track.hidden is not None:
                rows = [i for i, other in enumerate(tracks) if other is track]
                track.hidden.append(hidden[rows].float())


def _attend_chunk(blocks: Tensor, length: int, q: Tensor, keys: Blocks, values: Blocks) -> Tensor:
    return attend_chunk(q, keys, values, blocks, length)


def _no_mixes(rows: int) -> Mixes | None:
    return None


def _always(mixes: Mixes | None) -> _MixesOf:
    return lambda rows: mixes


def _mentions(key: Hashable, name: str) -> bool:
    return isinstance(key, tuple) and any(name in dict(mix) for mix in key)
