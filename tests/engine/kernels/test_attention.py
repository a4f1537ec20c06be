"""Attention over the paged cache: plain torch against a contiguous cache, the kernel against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from modules.engine.worker.kernels.attention import (
    DecodeAttention,
    attend_places,
    attend_reference,
    row_places,
)
from modules.engine.worker.kernels.cache_blocks import Blocks, Int8Blocks, dequantize, quantize

card = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA card")

LENGTHS = ([1], [700], [16], [17, 0, 333], [5, 300, 64, 0, 1, 129, 128, 65], [100] * 16)
SHAPES = [
    (128, torch.float16), (128, torch.bfloat16), (64, torch.float16), (96, torch.float16),
    (256, torch.bfloat16),
]  # fmt: skip
GROUPS = [(4, 4), (4, 2), (9, 3), (8, 2), (5, 1), (12, 2), (7, 1), (8, 1), (11, 1), (16, 1)]


@dataclass
class Case:
    """Rows whose blocks lie anywhere in a cache that holds no numbers elsewhere."""

    q: Tensor
    keys: Blocks
    values: Blocks
    tables: Tensor
    lengths: Tensor

    @classmethod
    def of(
        cls, heads: int, kv_heads: int, dim: int, lengths: Sequence[int], device: str = "cpu"
    ) -> Case:
        torch.manual_seed(heads * dim + sum(lengths))
        needed = [-(-length // 16) for length in lengths]
        blocks = sum(needed) + 3
        order = torch.randperm(blocks).tolist()
        tables = torch.full((len(lengths), max(needed) + 2), 2**30, dtype=torch.int32)
        filled = torch.zeros(blocks, 16, dtype=torch.bool)
        for row, length in enumerate(lengths):
            ids = torch.tensor([order.pop() for _ in range(needed[row])], dtype=torch.int32)
            tables[row, : needed[row]] = ids
            for t in range(length):
                filled[ids[t // 16], t % 16] = True
        keys, values = torch.randn(2, blocks, kv_heads, 16, dim)
        for cache in (keys, values):
            cache.transpose(1, 2)[~filled] = torch.nan
        q = torch.randn(len(lengths), heads, dim) * 2
        of_rows = torch.tensor(lengths, dtype=torch.int32)
        return cls(*(tensor.to(device) for tensor in (q, keys, values, tables, of_rows)))

    def rounded(self, dtype: torch.dtype) -> Case:
        keys, values = (
            cache.to(dtype) if isinstance(cache, Tensor) else cache
            for cache in (self.keys, self.values)
        )
        return Case(self.q.to(dtype), keys, values, self.tables, self.lengths)

    def in_8_bits(self) -> Case:
        """The same rounded to codes; scales that nobody wrote are no numbers."""
        caches = (
            cache if isinstance(cache, Int8Blocks) else Int8Blocks(*quantize(cache))
            for cache in (self.keys, self.values)
        )
        return Case(self.q, *caches, self.tables, self.lengths)

    def reference(self) -> Tensor:
        exact = self.rounded(torch.float32)
        scale = self.q.shape[-1] ** -0.5
        return attend_reference(
            exact.q, exact.keys, exact.values, self.tables, self.lengths, scale
        )  # fmt: skip

    def attend(self, attention: DecodeAttention) -> Tensor:
        poisoned = torch.full_like(self.q, torch.nan)
        return attention(self.q, self.keys, self.values, self.tables, self.lengths, poisoned)


def contiguous(cache: Tensor, table: Tensor, length: int) -> Tensor:
    """The tokens of a row, one by one: [kv_heads, length, dim]."""
    tokens = [cache[table[t // 16], :, t % 16] for t in range(length)]
    return torch.stack(tokens, dim=1)


@pytest.mark.parametrize(("heads", "kv_heads"), GROUPS)
@pytest.mark.parametrize("lengths", LENGTHS[:5])
def test_paged_attention_is_attention_over_the_tokens_of_the_row(
    heads: int, kv_heads: int, lengths: list[int]
) -> None:
    case = Case.of(heads, kv_heads, 32, lengths)
    found = attend_reference(
        case.q, case.keys, case.values, case.tables, case.lengths, scale=0.25
    )  # fmt: skip
    for row, length in enumerate(lengths):
        if length == 0:
            assert torch.equal(found[row], torch.zeros_like(found[row]))
            continue
        k, v = (contiguous(c, case.tables[row], length) for c in (case.keys, case.values))
        k, v = (x.repeat_interleave(heads // kv_heads, 0) for x in (k, v))
        meant = functional.scaled_dot_product_attention(case.q[row, :, None], k, v, scale=0.25)
        torch.testing.assert_close(found[row], meant[:, 0], rtol=1e-4, atol=1e-5)


def test_the_places_of_a_step_serve_every_layer() -> None:
    case = Case.of(6, 2, 64, [40, 0, 7])
    places = row_places(case.tables, case.lengths, kv_heads=2)
    layers = [(case.keys, case.values), (case.keys * 0.5, case.values + 1)]
    for keys, values in layers:
        found = attend_places(case.q, keys, values, places, 0.125)
        meant = attend_reference(case.q, keys, values, case.tables, case.lengths, 0.125)
        assert torch.equal(found, meant)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_cache_in_8_bits_is_attended_to_as_what_its_codes_stand_for(dtype: torch.dtype) -> None:
    case = Case.of(9, 3, 64, [200, 0, 3, 16]).in_8_bits().rounded(dtype)
    rest = (case.tables, case.lengths, 0.125)
    codes = [cache for cache in (case.keys, case.values) if isinstance(cache, Int8Blocks)]
    keys, values = (dequantize(cache.codes, cache.scales, dtype) for cache in codes)
    assert torch.equal(
        attend_reference(case.q, *codes, *rest), attend_reference(case.q, keys, values, *rest)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_near_as_its_rounding(dtype: torch.dtype) -> None:
    case = Case.of(9, 3, 64, [200, 3]).rounded(dtype)
    found = attend_reference(
        case.q, case.keys, case.values, case.tables, case.lengths, scale=0.125
    )  # fmt: skip
    assert found.dtype == dtype
    assert (found.float() - case.reference()).abs().max() < _tolerance(dtype)


def test_there_is_no_kernel_for_the_processor() -> None:
    assert not DecodeAttention.fits(32, 8, 128, torch.float16, torch.device("cpu"))


Made = dict[tuple[int, int, int, torch.dtype, bool], DecodeAttention]


@pytest.fixture(scope="module")
def attentions() -> Made:
    """What was compiled for a shape serves every test of it."""
    return {}


def attention_for(
    made: Made, heads: int, kv_heads: int, dim: int, dtype: torch.dtype, *, int8: bool = False
) -> DecodeAttention:
    key = (heads, kv_heads, dim, dtype, int8)
    if key not in made:
        made[key] = DecodeAttention(*key[:4], torch.device("cuda"), 16, int8)
    return made[key]


@card
@pytest.mark.gpu
@pytest.mark.parametrize(("heads", "kv_heads"), GROUPS)
@pytest.mark.parametrize(("dim", "dtype"), SHAPES)
def test_the_kernel_agrees_with_plain_torch(
    heads: int, kv_heads: int, dim: int, dtype: torch.dtype, attentions: Made
) -> None:
    attention = attention_for(attentions, heads, kv_heads, dim, dtype)
    assert DecodeAttention.fits(heads, kv_heads, dim, dtype, torch.device("cuda"))
    for lengths in LENGTHS:
        case = Case.of(heads, kv_heads, dim, lengths, "cuda").rounded(dtype)
        found = case.attend(attention)
        error = (found.float() - case.reference()).abs().max()
        assert error < _tolerance(dtype), lengths


@card
@pytest.mark.gpu
@pytest.mark.parametrize(("heads", "kv_heads"), GROUPS)
@pytest.mark.parametrize(("dim", "dtype"), [*SHAPES, (32, torch.float16), (160, torch.bfloat16)])
def test_the_kernel_for_8_bits_agrees_with_plain_torch(
    heads: int, kv_heads: int, dim: int, dtype: torch.dtype, attentions: Made
) -> None:
    attention = attention_for(attentions, heads, kv_heads, dim, dtype, int8=True)
    for lengths in LENGTHS:
        case = Case.of(heads, kv_heads, dim, lengths, "cuda").in_8_bits().rounded(dtype)
        found = case.attend(attention)
        error = (found.float() - case.reference()).abs().max()
        assert error < _tolerance(dtype), lengths


@card
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_small_values_beside_a_token_that_takes_all_the_attention_keep_their_digits(
    dtype: torch.dtype, attentions: Made
) -> None:
    attention = attention_for(attentions, 8, 2, 128, dtype, int8=True)
    case = Case.of(8, 2, 128, [3000], "cuda")
    assert isinstance(case.keys, Tensor) and isinstance(case.values, Tensor)
    first = case.tables[0, 0]
    case.q = case.q[:, :1].repeat(1, 8, 1)
    case.keys[first, :, 0] = case.q[0, 0] * 0.25  # the sink of attention, which has no value
    case.values *= 1e-2
    case.values[first, :, 0] *= 1e-6
    case = case.in_8_bits().rounded(dtype)
    found, meant = case.attend(attention).float(), case.reference()
    assert (found - meant).norm() / meant.norm() < _tolerance(dtype)


@card
@pytest.mark.gpu
def test_zeros_and_large_numbers_in_8_bits_give_numbers(attentions: Made) -> None:
    attention = attention_for(attentions, 8, 2, 128, torch.bfloat16, int8=True)
    case = Case.of(8, 2, 128, [40, 40], "cuda")
    assert isinstance(case.keys, Tensor) and isinstance(case.values, Tensor)
    case.keys[case.tables[0, :3]] = 0
    case.values[case.tables[0, :3]] = 0
    case.q[1] *= 1e6
    case.keys[case.tables[1, :3]] *= 1e-6
    case = case.in_8_bits().rounded(torch.bfloat16)
    found = case.attend(attention)
    assert not found[0].any()
    assert bool(found[1].isfinite().all())


@card
@pytest.mark.gpu
def test_a_cache_of_another_kind_is_refused(attentions: Made) -> None:
    case = Case.of(4, 4, 128, [3], "cuda").rounded(torch.float16)
    for int8, wrong in ((True, case), (False, case.in_8_bits())):
        attention = attention_for(attentions, 4, 4, 128, torch.float16, int8=int8)
        with pytest.raises(TypeError, match="another kind"):
            wrong.attend(attention)


@card
@pytest.mark.gpu
def test_a_long_context_is_shared_and_merged_the_same_every_time(attentions: Made) -> None:
    attention = attention_for(attentions, 8, 2, 128, torch.float16)
    case = Case.of(8, 2, 128, [9000], "cuda").rounded(torch.float16)
    first = case.attend(attention)
    assert (first.float() - case.reference()).abs().max() < _tolerance(torch.float16)
    for _ in range(20):
        assert torch.equal(case.attend(attention), first)


@card
@pytest.mark.gpu
def test_a_row_does_not_depend_on_what_the_others_hold(attentions: Made) -> None:
    attention = attention_for(attentions, 8, 2, 128, torch.float16)
    case = Case.of(8, 2, 128, [500, 1200, 3], "cuda").rounded(torch.float16)
    first = case.attend(attention)
    case.lengths[1:] = 0
    assert torch.equal(case.attend(attention)[0], first[0])


@card
@pytest.mark.gpu
def test_a_captured_graph_follows_the_lengths(attentions: Made) -> None:
    attention = attention_for(attentions, 8, 2, 128, torch.float16)
    case = Case.of(8, 2, 128, [1000, 900], "cuda").rounded(torch.float16)
    case.attend(attention)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    out = torch.empty_like(case.q)
    with torch.cuda.graph(graph):
        attention(case.q, case.keys, case.values, case.tables, case.lengths, out)
    for lengths in ([1000, 900], [1, 0], [15, 640]):
        case.lengths.copy_(torch.tensor(lengths))
        graph.replay()
        assert (out.float() - case.reference()).abs().max() < _tolerance(torch.float16), lengths


@card
@pytest.mark.gpu
def test_more_rows_than_there_is_workspace_for_are_refused() -> None:
    attention = DecodeAttention(4, 4, 128, torch.float16, torch.device("cuda"), rows=2)
    case = Case.of(4, 4, 128, [3, 4, 5], "cuda").rounded(torch.float16)
    with pytest.raises(ValueError, match="3 rows"):
        case.attend(attention)


def _tolerance(dtype: torch.dtype) -> float:
    return 2e-3 if dtype == torch.float16 else 2e-2
