"""A cache with room for what comes."""

from __future__ import annotations

import torch
from transformers import DynamicCache, LlamaConfig

from modules.engine.worker.kv_cache import RoomyLayer, make_room, new_cache

CONFIG = LlamaConfig(num_hidden_layers=2, hidden_size=8, num_attention_heads=2)


def states(tokens: int) -> torch.Tensor:
    return torch.randn(1, 2, tokens, 4)


def test_it_holds_what_transformers_own_holds() -> None:
    ours, theirs = new_cache(CONFIG, room=8), DynamicCache(config=CONFIG)
    for tokens in (5, 1, 1, 1, 1, 600, 1):
        for layer in (0, 1):
            keys, values = states(tokens), states(tokens)
            got, meant = ours.update(keys, values, layer), theirs.update(keys, values, layer)
            assert all(torch.equal(a, b) for a, b in zip(got, meant, strict=True))
    assert ours.get_seq_length() == theirs.get_seq_length() == 610


def test_a_token_within_the_room_moves_nothing() -> None:
    layer = RoomyLayer(room=16)
    layer.update(states(10), states(10))
    place = layer.keys.data_ptr()
    for _ in range(6):
        layer.update(states(1), states(1))
    assert layer.keys.data_ptr() == place
    layer.update(states(1), states(1))
    assert layer.keys.shape[-2] == 17


def test_what_was_cropped_is_written_over() -> None:
    layer = RoomyLayer(room=8)
    first = states(6)
    layer.update(first, first)
    layer.crop(-4)
    second = states(3)
    keys, _ = layer.update(second, second)
    assert torch.equal(keys, torch.cat([first[..., :2, :], second], dim=-2))


def test_a_cache_that_is_used_again_grows_at_once_to_what_comes() -> None:
    cache = new_cache(CONFIG, room=4)
    cache.update(states(4), states(4), 0)
    make_room(cache, 2000)
    cache.update(states(1), states(1), 0)
    place = cache.layers[0].keys.data_ptr()
    cache.update(states(1990), states(1990), 0)
    assert cache.layers[0].keys.data_ptr() == place
