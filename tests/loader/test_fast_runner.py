"""Whom the fast runner serves, and how many tokens its cache gets."""

from __future__ import annotations

import pytest

from modules.loader.fast_runner import cache_tokens, serves
from tests.loader.shapes import LLAMA_2_7B, inspection


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_llama_and_its_kin_are_served(family: str) -> None:
    assert serves(inspection(LLAMA_2_7B, model_type=family), 4096)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "mixtral", "qwen3_moe", ""])
def test_others_are_not(family: str) -> None:
    assert not serves(inspection(LLAMA_2_7B, model_type=family), 4096)


def test_a_window_is_served_up_to_its_length() -> None:
    windowed = inspection(LLAMA_2_7B, model_type="mistral", window=4096)
    assert serves(windowed, 4096)
    assert not serves(windowed, 4097)


@pytest.mark.parametrize(
    ("context", "room", "tokens"),
    [
        # Seven more contexts while half of the room stays free, else what is within that.
        (4096, 100_000, 49_152), (4096, 90_112, 49_152), (4096, 20_000, 4096 + 9984),
        (4096, 500, 4096), (4096, 0, 4096), (4096, -10, 4096), (1000, 10**6, 12_000),
    ],
)  # fmt: skip
def test_without_a_wish_half_of_the_room_stays_free(context: int, room: int, tokens: int) -> None:
    assert cache_tokens(context, room, asked=0) == tokens


@pytest.mark.parametrize(
    ("asked", "tokens"), [(1, 4096), (4096, 4096), (9000, 9000), (14_000, 14_000), (15_000, 13_824)]
)
def test_a_wish_is_kept_from_one_context_to_all_the_room(asked: int, tokens: int) -> None:
    assert cache_tokens(4096, 9904, asked) == tokens
