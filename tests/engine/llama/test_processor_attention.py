"""Attention over keys where they lie, against the reference that copies them."""

from __future__ import annotations

import pytest
import torch

from modules.engine.worker.kernels.attention import attend_reference
from modules.engine.worker.kernels.cache_blocks import dequantize, quantize
from modules.engine.worker.llama.paged_cache import PagedCache
from modules.engine.worker.llama.processor_attention import RunAttention, head_major_cache
from modules.engine.worker.llama.shape import Shape

LAYERS, BLOCKS, HEADS, KV_HEADS, DIM = 2, 12, 6, 2, 32
RUNS = [[3, 4, 5, 6], [0, 1, 2, 3]]
SCATTERED = [[7, 2, 9, 1], [5, 4, 3, 2]]
MIXED = [[8, 9, 10, 11], [9, 8, 0, 3]]


@pytest.mark.parametrize("tables", [RUNS, SCATTERED, MIXED])
@pytest.mark.parametrize("lengths", [(64, 64), (1, 33), (16, 0), (49, 17)])
def test_rows_attend_to_what_the_reference_says(
    tables: list[list[int]], lengths: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    cache = head_major_cache(LAYERS, BLOCKS, KV_HEADS, DIM, torch.float32).normal_()
    q = torch.randn(2, HEADS, DIM)
    places = torch.tensor(tables, dtype=torch.int32), torch.tensor(lengths, dtype=torch.int32)
    attend = RunAttention(*places, 0.2)
    for keys, values in cache:
        wanted = attend_reference(q, keys.contiguous(), values.contiguous(), *places, 0.2)
        torch.testing.assert_close(attend(q, keys, values), wanted)


@pytest.mark.parametrize("tables", [RUNS, SCATTERED, MIXED])
@pytest.mark.parametrize("lengths", [(64, 64), (1, 33), (16, 0)])
def test_codes_are_attended_to_as_what_they_stand_for(
    tables: list[list[int]], lengths: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    shape = Shape(LAYERS, 64, HEADS, KV_HEADS, DIM, 10, 1e-5)
    cache = PagedCache.empty(shape, BLOCKS, torch.float32, int8=True, head_major=True)
    assert cache.scales is not None
    codes, scales = quantize(torch.randn(cache.numbers.shape))
    cache.numbers.copy_(codes)
    cache.scales.copy_(scales)
    q = torch.randn(2, HEADS, DIM)
    places = torch.tensor(tables, dtype=torch.int32), torch.tensor(lengths, dtype=torch.int32)
    attend = RunAttention(*places, 0.2)
    for number, (keys, values) in enumerate(cache.layers):
        numbers = dequantize(codes[number], scales[number], torch.float32)
        wanted = attend_reference(q, *numbers, *places, 0.2)
        torch.testing.assert_close(attend(q, keys, values), wanted)


def test_blocks_in_a_row_are_read_where_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = head_major_cache(1, BLOCKS, KV_HEADS, DIM, torch.float32)
    seen = []

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        seen.extend([k, v])
        return q

    path = "modules.engine.worker.llama.processor_attention.functional.scaled_dot_product_attention"
    monkeypatch.setattr(path, attention)
    RunAttention(torch.tensor([RUNS[0]]), torch.tensor([50]), 1.0)(
        torch.randn(1, HEADS, DIM), *cache[0]
    )
    storage = cache.untyped_storage().data_ptr()
    assert [tensor.untyped_storage().data_ptr() for tensor in seen] == [storage, storage]


def test_a_head_of_the_cache_is_one_piece_of_memory() -> None:
    cache = head_major_cache(LAYERS, BLOCKS, KV_HEADS, DIM, torch.bfloat16)
    assert cache.shape == (LAYERS, 2, BLOCKS, KV_HEADS, 16, DIM)
    assert cache[1, 0, :, 1].is_contiguous()
