"""`new_cache`: a KV cache that has room for what comes, so that a token is one write.

transformers' own grows by a copy of everything for each token; on a card each copy is a size
that the allocator has not had before. A 7B model on an H200 took 65 ms a token so, and 32 ms
when the same sizes came a second time.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

__all__ = ["RoomyLayer", "can_rewind", "make_room", "new_cache"]

_STEP = 512
"""Tokens by which a layer grows that was told too little."""


class RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values [batch, heads, tokens, head_dim] as views of larger tensors.

    `room` is the number of tokens to make room for when the first ones come, or the next
    that do not fit.
    """

    def __init__(self, room: int = _STEP) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.room = room
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Append; returns all keys and all values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        length = self.get_seq_length()
        self._keys, keys = self._appended(self._keys, key_states, length)
        self._values, values = self._appended(self._values, value_states, length)
        self.keys, self.values = keys, values
        return keys, values

    def _appended(self, buffer: Tensor | None, new: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """The buffer after its first `length` tokens were followed by `new`, and its view."""
        end = length + new.shape[-2]
        if buffer is None or end > buffer.shape[-2]:
            tokens = max(self.room, end if buffer is None else end + _STEP)
            larger = new.new_empty(*new.shape[:-2], tokens, new.shape[-1])
            if buffer is not None:
                larger[..., :length, :] = buffer[..., :length, :]
            buffer = larger
        buffer[..., length:end, :] = new
        return buffer, buffer[..., :end, :]


def new_cache(config: PreTrainedConfig, room: int) -> DynamicCache:
    """An empty cache for `room` tokens; layers with a sliding window stay transformers' own."""
    cache = DynamicCache(config=config)
    layers: list[Any] = cache.layers
    cache.layers = [RoomyLayer(room) if type(layer) is DynamicLayer else layer for layer in layers]
    return cache


def make_room(cache: DynamicCache, room: int) -> None:
    """Tell a cache that is used again how many tokens come."""
    for layer in cache.layers:
        if isinstance(layer, RoomyLayer):
            layer.room = room


def can_rewind(config: PreTrainedConfig, context_length: int) -> bool:
    """Whether tokens can always be taken off the end of a model's caches.

    A sliding window that the context reaches has forgotten its past, and a recurrent state
    has none.
    """
    layers: list[Any] = DynamicCache(config=config).layers
    return all(
        layer.is_croppable
        and not (
            isinstance(layer, DynamicSlidingWindowLayer) and layer.sliding_window <= context_length
        )
        for layer in layers
    )
