"""Norms, rotary embedding and gate: plain torch against transformers, the kernels against it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)

from modules.engine.worker.kernels.cache_blocks import Int8Blocks, dequantize, quantize
from modules.engine.worker.kernels.rows import HeadShape, Places, RowKernels, Rows, TorchRows

card = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA card")

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SHAPES = [
    HeadShape(4, 2, 128, paired=True, q_norm=torch.randn(128), k_norm=torch.randn(128), eps=1e-5),
    HeadShape(9, 3, 64),
    HeadShape(6, 2, 96, q_norm=torch.randn(96), k_norm=torch.randn(96)),
    HeadShape(4, 4, 128, paired=True),
]


def rounded(shape: HeadShape, dtype: torch.dtype, device: str = "cpu") -> HeadShape:
    if shape.q_norm is None or shape.k_norm is None:
        return shape
    q_norm, k_norm = (norm.to(device, dtype) for norm in (shape.q_norm, shape.k_norm))
    return replace(shape, q_norm=q_norm, k_norm=k_norm)


def in_pairs(first: Tensor, second: Tensor) -> Tensor:
    """Both halves of the last dimension in turns of eight."""
    tiles = [torch.split(half, 8, -1) for half in (first, second)]
    return torch.cat([part for pair in zip(*tiles, strict=True) for part in pair], -1)


def table_of(shape: HeadShape, positions: int) -> tuple[Tensor, Tensor, Tensor]:
    """What transformers has as cos and sin, and the same as `Places` has it."""
    config = LlamaConfig(
        hidden_size=shape.heads * shape.head_dim, num_attention_heads=shape.heads,
        head_dim=shape.head_dim,
    )  # fmt: skip
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.arange(positions)[None])
    half = shape.head_dim // 2
    return cos[0], sin[0], torch.cat((cos[0, :, :half], sin[0, :, :half]), -1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_norm_is_that_of_transformers(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, delta = (torch.randn(3, 576) * 3).to(dtype), torch.randn(3, 576).to(dtype)
    norm = LlamaRMSNorm(576, eps=1e-5).to(dtype)
    norm.weight.data.normal_()
    h = x.clone()
    found = [
        TorchRows().rms_norm(x, norm.weight.data, 1e-5),
        TorchRows().add_rms_norm(h, delta, norm.weight.data, 1e-5),
    ]
    assert torch.equal(h, x + delta)
    for result, meant in zip(found, (norm(x), norm(x + delta)), strict=True):
        torch.testing.assert_close(result, meant.detach())
        assert result.dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gate_is_silu_and_comes_in_halves_or_in_pairs(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    gate, up = (torch.randn(2, 5, 96) * 4).to(dtype)
    meant = functional.silu(gate) * up  # as LlamaMLP computes it
    found = TorchRows().swiglu(torch.cat((gate, up), -1), paired=False)
    torch.testing.assert_close(found, meant)
    torch.testing.assert_close(TorchRows().swiglu(in_pairs(gate, up), paired=True), meant)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_queries_and_keys_turn_as_in_transformers(shape: HeadShape, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    shape = rounded(shape, dtype)
    rows, dim = 4, shape.head_dim
    cos, sin, cos_sin = table_of(shape, 50)
    q, k, v = (torch.randn(rows, n, dim).to(dtype) for n in (shape.heads, *[shape.kv_heads] * 2))
    positions, slots = torch.tensor([7, 0, 49, 8]), torch.tensor([35, 2, 63, 36])
    given = [in_pairs(*x.chunk(2, -1)) if shape.paired else x for x in (q, k)]
    keys, values = torch.zeros(2, 5, shape.kv_heads, 16, dim, dtype=dtype)
    found = TorchRows().rope_into_cache(
        torch.cat((*given, v), 1).flatten(1), shape,
        Places(cos_sin, positions.int(), slots.int()), keys, values,
    )  # fmt: skip

    if shape.q_norm is not None and shape.k_norm is not None:
        norms = [LlamaRMSNorm(dim, shape.eps).to(dtype) for _ in range(2)]
        norms[0].weight.data, norms[1].weight.data = shape.q_norm, shape.k_norm
        q, k = norms[0](q).detach(), norms[1](k).detach()
    turned = apply_rotary_pos_emb(q.float(), k.float(), cos[positions], sin[positions])
    meant_q, meant_k = (x.to(dtype) for x in turned)
    torch.testing.assert_close(found, meant_q)
    for row, slot in enumerate(slots.tolist()):
        torch.testing.assert_close(keys[slot // 16, :, slot % 16], meant_k[row])
        assert torch.equal(values[slot // 16, :, slot % 16], v[row])
    assert keys.any(-1).sum() == values.any(-1).sum() == rows * shape.kv_heads


def test_padding_writes_nothing_and_asks_nothing() -> None:
    shape = HeadShape(2, 1, 64)
    qkv = torch.randn(3, 4 * 64)
    positions, slots = torch.tensor([[1, 99, -7], [5, -1, -1]], dtype=torch.int32)
    places = Places(torch.randn(4, 64), positions, slots)
    keys, values = torch.zeros(2, 2, 1, 16, 64)
    q = TorchRows().rope_into_cache(qkv, shape, places, keys, values)
    alone = Places(places.cos_sin, places.positions[:1], places.slots[:1])
    others = torch.zeros(2, 2, 1, 16, 64)
    assert torch.equal(q[:1], TorchRows().rope_into_cache(qkv[:1], shape, alone, *others))
    assert not q[1:].any()
    assert torch.equal(keys, others[0])
    assert torch.equal(values, others[1])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_cache_in_8_bits_gets_the_codes_of_what_one_in_16_bits_gets(
    shape: HeadShape, dtype: torch.dtype
) -> None:
    shape = rounded(shape, dtype)
    _assert_same_codes(TorchRows(), shape, dtype, 3, table_of(shape, 50)[2])


def test_there_are_no_kernels_for_the_processor() -> None:
    assert not RowKernels.fits(4096, 11008, 128, torch.float16, torch.device("cpu"))


@pytest.fixture(scope="module", params=[torch.float16, torch.bfloat16], ids=str)
def kernels(request: pytest.FixtureRequest) -> tuple[Rows, torch.dtype]:
    return RowKernels(request.param, torch.device("cuda")), request.param


@card
@pytest.mark.gpu
@pytest.mark.parametrize(("rows", "hidden"), [(1, 4096), (5, 576), (2048, 64), (3, 8200)])
def test_the_kernels_of_the_norm_agree_with_plain_torch(
    rows: int, hidden: int, kernels: tuple[Rows, torch.dtype]
) -> None:
    ours, dtype = kernels
    torch.manual_seed(hidden)
    x = (torch.randn(rows, hidden, device="cuda") * 3).to(dtype)
    delta, weight = torch.randn_like(x), torch.randn_like(x[0])
    _assert_same(ours.rms_norm(x, weight, 1e-5), TorchRows().rms_norm(x, weight, 1e-5))
    h, meant_h = x.clone(), x.clone()
    y = ours.add_rms_norm(h, delta, weight, 1e-5)
    _assert_same(y, TorchRows().add_rms_norm(meant_h, delta, weight, 1e-5))
    assert torch.equal(h, meant_h)


@card
@pytest.mark.gpu
@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize(("rows", "middle"), [(1, 11008), (7, 1536), (2048, 8)])
def test_the_kernel_of_the_gate_agrees_with_plain_torch(
    rows: int, middle: int, paired: bool, kernels: tuple[Rows, torch.dtype]
) -> None:
    ours, dtype = kernels
    gate_up = (torch.randn(rows, 2 * middle, device="cuda") * 4).to(dtype)
    _assert_same(ours.swiglu(gate_up, paired), TorchRows().swiglu(gate_up, paired))


@card
@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES)
def test_the_kernel_of_the_rotary_embedding_agrees_with_plain_torch(
    shape: HeadShape, kernels: tuple[Rows, torch.dtype]
) -> None:
    ours, dtype = kernels
    shape = rounded(shape, dtype, "cuda")
    cos_sin = table_of(shape, 3000)[2].cuda()
    for rows in (1, 3, 2048):
        torch.manual_seed(rows)
        outputs = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
        qkv = torch.randn(rows, outputs, device="cuda").to(dtype)
        slots = torch.randperm(130 * 16, device="cuda")[:rows].int()
        positions = torch.randint(0, 3000, (rows,), device="cuda").int()
        if rows > 1:
            slots[1], positions[1] = -1, -(2**31)
        cache = torch.randn(2, 130, shape.kv_heads, 16, shape.head_dim, device="cuda").to(dtype)
        meant_cache = cache.clone()
        places = Places(cos_sin, positions, slots)
        found = ours.rope_into_cache(qkv, shape, places, *cache)
        meant = TorchRows().rope_into_cache(qkv, shape, places, *meant_cache)
        _assert_same(found, meant)
        _assert_same(cache[0], meant_cache[0])
        assert torch.equal(cache[1], meant_cache[1])


@card
@pytest.mark.gpu
@pytest.mark.parametrize("shape", [*SHAPES, HeadShape(3, 1, 16, paired=True), HeadShape(2, 1, 256)])
def test_the_kernel_writes_the_codes_of_what_it_writes_in_16_bits(
    shape: HeadShape, kernels: tuple[Rows, torch.dtype]
) -> None:
    ours, dtype = kernels
    shape = rounded(shape, dtype, "cuda")
    for rows in (1, 3, 2048):
        _assert_same_codes(ours, shape, dtype, rows, table_of(shape, 3000)[2].cuda())


def _assert_same_codes(
    ours: Rows, shape: HeadShape, dtype: torch.dtype, rows: int, cos_sin: Tensor
) -> None:
    """Rows, of which the second is padding and the third is all zeros, into both kinds of cache."""
    torch.manual_seed(rows)
    device, heads = cos_sin.device, shape.kv_heads
    outputs = (shape.heads + 2 * heads) * shape.head_dim
    qkv = (torch.randn(rows, outputs, device=device) * 2).to(dtype)
    slots = torch.randperm(130 * 16, device=device)[:rows].int()
    positions = torch.randint(0, len(cos_sin), (rows,), device=device).int()
    if rows > 2:
        slots[1], positions[1] = -1, -(2**31)
        qkv[2] = 0
    places = Places(cos_sin, positions, slots)
    plain = torch.zeros(2, 130, heads, 16, shape.head_dim, dtype=dtype, device=device)
    codes = torch.zeros_like(plain, dtype=torch.int8)
    scales = torch.zeros(2, 130, heads, 16, device=device)
    q = ours.rope_into_cache(qkv, shape, places, *plain)
    blocks = (Int8Blocks(codes[0], scales[0]), Int8Blocks(codes[1], scales[1]))
    assert torch.equal(ours.rope_into_cache(qkv, shape, places, *blocks), q)
    meant_codes, meant_scales = quantize(plain)
    assert torch.equal(codes, meant_codes)
    written = scales != 0
    assert int(written.sum()) == 2 * heads * (rows - int(rows > 2))
    assert torch.equal(scales[written], meant_scales[written])
    off = (dequantize(codes, scales, torch.float32) - plain.float()).abs()
    assert bool((off <= 0.501 * scales[..., None]).all())


def _assert_same(found: Tensor, meant: Tensor) -> None:
    """Up to the last digit here and there, where float32 came out otherwise before rounding."""
    eps = torch.finfo(meant.dtype).eps
    largest = float(meant.abs().max())
    torch.testing.assert_close(found, meant, rtol=2.1 * eps, atol=eps * largest)
    assert (found != meant).float().mean() < 0.02
