"""`PrefixCache`: KV caches of finished requests, for the next one that begins the same.

A second turn of a chat, a regenerated reply and a shared system prompt skip the tokens
that they have in common with an earlier request. Keys and values depend on the LoRAs that
they were computed with, so a cache serves the same mix alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicSlidingWindowLayer

from modules.engine.mix import Mix
from modules.engine.worker.kv_cache import RoomyLayer, make_room, new_cache

__all__ = ["PrefixCache"]


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    token_ids: list[int]
    cache: DynamicCache
    mix: Mix


class PrefixCache:
    """A few caches with the tokens that they hold; the least recently used leaves first."""

    def __init__(self, config: PreTrainedConfig, max_tokens: int, max_entries: int = 4) -> None:
        self._config = config
        self._max_tokens = max_tokens
        self._max_entries = max_entries
        self._entries: list[_Entry] = []

    def put(self, token_ids: list[int], cache: DynamicCache, mix: Mix = ()) -> None:
        """Keep a cache that holds exactly `token_ids`, computed with `mix`."""
        if not token_ids or len(token_ids) > self._max_tokens:
            return
        self._entries.append(_Entry(token_ids, cache, mix))
        while (
            len(self._entries) > self._max_entries
            or sum(len(entry.token_ids) for entry in self._entries) > self._max_tokens
        ):
            self._entries.pop(0)

    def take(self, token_ids: list[int], mix: Mix = (), room: int = 0) -> tuple[DynamicCache, int]:
        """A cache of the longest known prefix of `token_ids`, and that prefix's length.

        It gets room for `room` tokens, so that it need not grow.

        At least the last token is left to compute, for its logits. The cache is the
        caller's: an entry that loses little is handed over, any other is copied from.
        """
        best, length = None, 0
        for entry in (entry for entry in self._entries if entry.mix == mix):
            common = _common(entry.token_ids, token_ids[:-1])
            if common > length and (common == len(entry.token_ids) or _croppable(entry.cache)):
                best, length = entry, common
        if best is None:
            return new_cache(self._config, room), 0
        if 2 * length < len(best.token_ids) and _copyable(best.cache):
            self._entries.append(self._entries.pop(self._entries.index(best)))
            return self._copy(best.cache, length, room), length
        self._entries.remove(best)
        best.cache.crop(length - len(best.token_ids))
        make_room(best.cache, room)
        return best.cache, length

    def drop(self, adapter: str) -> None:
        """Forget what was computed with an adapter."""
        self._entries = [e for e in self._entries if adapter not in dict(e.mix)]

    def clear(self) -> None:
        """Give the memory back."""
        self._entries.clear()

    def _copy(self, cache: DynamicCache, length: int, room: int) -> DynamicCache:
        copy = new_cache(self._config, room)
        layers: list[Any] = cache.layers
        for index, layer in enumerate(layers):
            copy.update(layer.keys[..., :length, :], layer.values[..., :length, :], index)
        return copy


def _common(left: list[int], right: list[int]) -> int:
    """How many tokens two lists have in common at their beginning."""
    pairs = zip(left, right, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))


def _croppable(cache: DynamicCache) -> bool:
    """Whether tokens can be taken off the end (a sliding window has forgotten its past)."""
    return all(
        layer.is_croppable
        and not (
            isinstance(layer, DynamicSlidingWindowLayer)
            and layer.get_seq_length() >= layer.sliding_window
        )
        for layer in cache.layers
    )


def _copyable(cache: DynamicCache) -> bool:
    return all(isinstance(layer, RoomyLayer) for layer in cache.layers)
