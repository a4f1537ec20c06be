"""`Runner`: the seam between the scheduler and whatever computes logits.

The scheduler decides whose tokens are computed when, and the methods in `decoding/` which;
a runner computes them, and owns the KV caches. `TransformersRunner` serves any model, and
`LlamaRunner` (llama/runner.py) those of one family much faster.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection
from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from modules.engine.mix import require_applied
from modules.engine.protocol import AdapterInfo
from modules.engine.worker.adapters import Adapters
from modules.engine.worker.kv_cache import new_cache
from modules.engine.worker.prefix_cache import PrefixCache
from modules.engine.worker.sequence import Track
from modules.engine.worker.tokens import input_ids
from modules.errors import EngineError

__all__ = ["Runner", "TransformersRunner"]

_REPLY = 512
"""Tokens of a reply that its cache has room for from the start."""


class Runner(Protocol):
    """Computes logits for tracks. It sets `computed`, `error` and `hidden` of them, no more.

    The order for each track: `start`, `prefill` until it returns logits, `decode` once for
    every further token, `release`. Some methods of decoding go other ways between the last
    two: `extend`, `rewind` and `fork`. Logits are float32, on the model's device.
    """

    def start(self, track: Track) -> int:
        """Make room for a track; returns how many prompt tokens are computed already."""
        ...

    def has_room(self, track: Track) -> bool:
        """Whether there is memory for the tokens of a track that was not started."""
        ...

    def prefill(self, track: Track, count: int) -> Tensor | None:
        """Compute up to `count` further prompt tokens.

        Returns the logits [vocab] of the last prompt token, once it is computed. Raises
        what the forward raised; the track cannot go on then. Raises CacheFullError where there
        is no room, and the track can go on when there is.
        """
        ...

    def decode(self, tracks: Collection[Track]) -> Tensor:
        """Compute the last token of each track; returns logits [len(tracks), vocab].

        A track whose own forward failed has `error` set, and its row means nothing. The logits
        are valid until the next call of the runner. Raises CacheFullError as `prefill` does.
        """
        ...

    def extend(self, track: Track, ids: list[int]) -> Tensor:
        """Compute `ids` after the computed tokens; returns logits [len(ids), vocab].

        `token_ids` stay as they are, so some of `ids` may be a guess. Raises what the
        forward raised.
        """
        ...

    def rewind(self, track: Track, length: int) -> None:
        """Forget all computed tokens but the first `length`.

        Not every model's cache can do that: `can_rewind` in kv_cache.py knows.
        """
        ...

    def fork(self, track: Track, copy: Track) -> None:
        """Give `copy` a cache of its own that holds what that of `track` does."""
        ...

    def release(self, track: Track, keep: bool = True) -> None:
        """Forget a track. Allowed at any time, also for one that was never started.

        What was computed of its `token_ids` may be kept for tracks that begin the same.
        """
        ...

    def load_adapter(self, name: str, folder: Path, probe: list[int]) -> AdapterInfo:
        """Make a LoRA usable by `Track.mix`; its change is measured on the tokens `probe`.

        No other may be there under this name. Raises AdapterError or ModelError.
        """
        ...

    def unload_adapter(self, name: str) -> None:
        """Forget a LoRA, if it is there. No track that was started may use it."""
        ...


class TransformersRunner:
    """Any causal model of transformers, one track a forward, with its own KV cache.

    `kept_tokens` of finished requests stay in memory, for those that begin the same.
    """

    def __init__(self, model: PreTrainedModel, kept_tokens: int) -> None:
        self._model = model
        self._adapters = Adapters(model)
        self._caches: dict[str, DynamicCache] = {}
        self._kept = PrefixCache(model.config, max_tokens=kept_tokens)
        embeddings: Any = model.get_input_embeddings()
        self._vocabulary = int(embeddings.weight.shape[0])
        # Mostly the last position's logits are wanted; nearly every architecture can be told.
        self._told = "logits_to_keep" in inspect.signature(model.forward).parameters

    def start(self, track: Track) -> int:
        """Take over the longest kept prefix.

        Raises EngineError for an unknown token, and AdapterError for an unknown LoRA.
        """
        require_applied(track.mix, self._adapters.names)
        # On a card an index past the embedding table ends every request, not this one alone.
        if max(track.token_ids) >= self._vocabulary:
            raise EngineError(
                "The prompt contains a special token that the model has no embedding for.",
                "Remove it, or use the tokenizer that belongs to the model.",
            )
        room = min(track.max_tokens, len(track.token_ids) + _REPLY)
        if track.hidden is not None:
            # A kept cache has keys and values, but not the states that they were made from.
            self._caches[track.id] = new_cache(self._model.config, room)
            return 0
        self._caches[track.id], track.computed = self._kept.take(track.token_ids, track.mix, room)
        return track.computed

    def has_room(self, track: Track) -> bool:
        """Always: its caches grow with its tracks."""
        return True

    def prefill(self, track: Track, count: int) -> Tensor | None:
        """One forward over the next `count` prompt tokens."""
        logits = self._forward(track, track.token_ids[track.computed :][:count])[-1]
        return logits if track.computed == len(track.token_ids) else None

    def decode(self, tracks: Collection[Track]) -> Tensor:
        """One forward for each track."""
        return torch.stack([self._decode_one(track) for track in tracks])

    def extend(self, track: Track, ids: list[int]) -> Tensor:
        """One forward over `ids`."""
        return self._forward(track, ids, len(ids))

    def rewind(self, track: Track, length: int) -> None:
        """Cut the cache back."""
        self._caches[track.id].crop(length - track.computed)
        track.computed = length

    def fork(self, track: Track, copy: Track) -> None:
        """Copy the cache."""
        self._caches[copy.id] = deepcopy(self._caches[track.id])
        copy.computed = track.computed

    def release(self, track: Track, keep: bool = True) -> None:
        """Keep the cache for requests that begin the same."""
        if track.id in self._caches and track.computed > len(track.token_ids):
            self.rewind(track, len(track.token_ids))
        cache = self._caches.pop(track.id, None)
        if cache is not None and keep:
            self._kept.put(track.token_ids[: track.computed], cache, track.mix)

    def load_adapter(self, name: str, folder: Path, probe: list[int]) -> AdapterInfo:
        """Read a LoRA, and lay it over the model."""
        return self._adapters.load(name, folder, probe)

    def unload_adapter(self, name: str) -> None:
        """Forget a LoRA, and what was computed with it."""
        self._adapters.unload(name)
        self._kept.drop(name)

    def _decode_one(self, track: Track) -> Tensor:
        try:
            return self._forward(track, [track.token_ids[track.computed]])[0]
        except (RuntimeError, MemoryError, IndexError) as error:
            track.error = error
            return torch.zeros(self._vocabulary, device=self._model.device)

    @torch.inference_mode()
    def _forward(self, track: Track, ids: list[int], wanted: int = 1) -> Tensor:
        """Compute `ids` after what is computed; the logits [wanted, vocab] of the last ones."""
        options = {"logits_to_keep": wanted} if self._told else {}
        # A forward that fails leaves a cache that some layers have written and some have
        # not; taken out first, it is gone then, and so are the kept ones, for their memory.
        cache = self._caches.pop(track.id)
        self._adapters.use(track.mix)
        try:
            output = self._model(
                input_ids=input_ids(self._model, ids),
                past_key_values=cache,
                use_cache=True,
                output_hidden_states=track.hidden is not None,
                **options,
            )
        except (torch.OutOfMemoryError, MemoryError):
            self._kept.clear()
            raise
        self._caches[track.id] = cache
        track.computed += len(ids)
        if track.hidden is not None:
            track.hidden.append(output.hidden_states[-1][0].float())
        logits: Tensor = output.logits[0, -wanted:].float()
        return logits
