"""`Runner`: the seam between the scheduler and whatever computes logits.

The scheduler decides whose tokens are computed when; a runner computes them, and owns the
KV cache. Faster runners (captured graphs, paged caches, batched decode) come as further
implementations of the protocol, and nothing above it changes.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from modules.engine.mix import require_applied
from modules.engine.protocol import AdapterInfo
from modules.engine.worker.adapters import Adapters
from modules.engine.worker.prefix_cache import PrefixCache
from modules.engine.worker.sequence import Sequence
from modules.engine.worker.tokens import input_ids
from modules.errors import EngineError

__all__ = ["Runner", "TransformersRunner"]

_REPLY = 512
"""Tokens of a reply that its cache has room for from the start."""


class Runner(Protocol):
    """Computes logits for sequences. It advances `Sequence.computed`, and nothing else of it.

    The order for each sequence: `start`, `prefill` until it returns logits, `decode` once
    for every further token, `release`. Logits are float32, on the model's device.
    """

    def start(self, seq: Sequence) -> int:
        """Make room for a sequence; returns how many prompt tokens are computed already."""
        ...

    def prefill(self, seq: Sequence, count: int) -> Tensor | None:
        """Compute up to `count` further prompt tokens.

        Returns the logits [vocab] of the last prompt token, once it is computed. Raises
        what the forward raised; the sequence cannot go on then.
        """
        ...

    def decode(self, seqs: list[Sequence]) -> Tensor:
        """Compute the last token of each sequence; returns logits [len(seqs), vocab].

        A sequence whose own forward failed has `error` set, and its row means nothing.
        """
        ...

    def release(self, seq: Sequence) -> None:
        """Forget a sequence. Allowed at any time, also for one that was never started."""
        ...

    def load_adapter(self, name: str, folder: Path, probe: list[int]) -> AdapterInfo:
        """Make a LoRA usable by `Sequence.mix`; its change is measured on the tokens `probe`.

        No other may be there under this name. Raises AdapterError or ModelError.
        """
        ...

    def unload_adapter(self, name: str) -> None:
        """Forget a LoRA, if it is there. No sequence that was started may use it."""
        ...


class TransformersRunner:
    """Any causal model of transformers, one sequence a forward, with its own KV cache.

    `kept_tokens` of finished requests stay in memory, for those that begin the same.
    """

    def __init__(self, model: PreTrainedModel, kept_tokens: int) -> None:
        self._model = model
        self._adapters = Adapters(model)
        self._caches: dict[str, DynamicCache] = {}
        self._kept = PrefixCache(model.config, max_tokens=kept_tokens)
        embeddings: Any = model.get_input_embeddings()
        self._vocabulary = int(embeddings.weight.shape[0])
        # Only the last position's logits are wanted; nearly every architecture can be told.
        told = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._options: dict[str, int] = {"logits_to_keep": 1} if told else {}

    def start(self, seq: Sequence) -> int:
        """Take over the longest kept prefix.

        Raises EngineError for an unknown token, and AdapterError for an unknown LoRA.
        """
        require_applied(seq.mix, self._adapters.names)
        # On a card an index past the embedding table ends every request, not this one alone.
        if max(seq.token_ids) >= self._vocabulary:
            raise EngineError(
                "The prompt contains a special token that the model has no embedding for.",
                "Remove it, or use the tokenizer that belongs to the model.",
            )
        room = min(seq.max_tokens, len(seq.token_ids) + _REPLY)
        self._caches[seq.id], seq.computed = self._kept.take(seq.token_ids, seq.mix, room)
        return seq.computed

    def prefill(self, seq: Sequence, count: int) -> Tensor | None:
        """One forward over the next `count` prompt tokens."""
        count = min(count, len(seq.token_ids) - seq.computed)
        logits = self._forward(seq, count)
        return logits if seq.computed == len(seq.token_ids) else None

    def decode(self, seqs: list[Sequence]) -> Tensor:
        """One forward for each sequence."""
        return torch.stack([self._decode_one(seq) for seq in seqs])

    def release(self, seq: Sequence) -> None:
        """Keep the cache for requests that begin the same."""
        cache = self._caches.pop(seq.id, None)
        if cache is not None:
            self._kept.put(seq.token_ids[: seq.computed], cache, seq.mix)

    def load_adapter(self, name: str, folder: Path, probe: list[int]) -> AdapterInfo:
        """Read a LoRA, and lay it over the model."""
        return self._adapters.load(name, folder, probe)

    def unload_adapter(self, name: str) -> None:
        """Forget a LoRA, and what was computed with it."""
        self._adapters.unload(name)
        self._kept.drop(name)

    def _decode_one(self, seq: Sequence) -> Tensor:
        try:
            return self._forward(seq, 1)
        except (RuntimeError, MemoryError, IndexError) as error:
            seq.error = error
            return torch.zeros(self._vocabulary, device=self._model.device)

    @torch.inference_mode()
    def _forward(self, seq: Sequence, count: int) -> Tensor:
        ids = seq.token_ids[seq.computed : seq.computed + count]
        # A forward that fails leaves a cache that some layers have written and some have
        # not; taken out first, it is gone then, and so are the kept ones, for their memory.
        cache = self._caches.pop(seq.id)
        self._adapters.use(seq.mix)
        try:
            output = self._model(
                input_ids=input_ids(self._model, ids),
                past_key_values=cache,
                use_cache=True,
                **self._options,
            )
        except (torch.OutOfMemoryError, MemoryError):
            self._kept.clear()
            raise
        self._caches[seq.id] = cache
        seq.computed += count
        logits: Tensor = output.logits[0, -1].float()
        return logits
