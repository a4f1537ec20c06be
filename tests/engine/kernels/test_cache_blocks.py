"""Keys and values in 8 bits: how far they are off, and what is written and read of them."""

from __future__ import annotations

import pytest
import torch

from modules.engine.worker.kernels.cache_blocks import (
    Int8Blocks,
    dequantize,
    gathered,
    quantize,
    tensors_of,
    write,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_number_is_off_by_half_a_step_of_its_token_at_most(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = (torch.randn(7, 3, 64) * torch.logspace(-4, 2, 7)[:, None, None]).to(dtype)
    codes, scales = quantize(x)
    off = (dequantize(codes, scales, torch.float32) - x.float()).abs()
    assert (codes.dtype, scales.dtype, scales.shape) == (torch.int8, torch.float32, (7, 3))
    assert bool((off <= 0.501 * scales[..., None]).all())
    assert bool((codes.abs().amax(-1) == 127).all())


def test_zeros_stay_zeros() -> None:
    assert not dequantize(*quantize(torch.zeros(2, 8)), torch.float16).any()


def test_what_is_no_number_stays_none() -> None:
    x = torch.ones(3, 8)
    x[0, 3], x[1, 0] = torch.nan, torch.inf
    found = dequantize(*quantize(x), torch.float32)
    assert bool(found[:2].isnan().any(-1).all())
    assert torch.equal(found[2], x[2])


def test_what_is_written_is_gathered_again() -> None:
    torch.manual_seed(1)
    cache = Int8Blocks(torch.zeros(4, 2, 16, 32, dtype=torch.int8), torch.zeros(4, 2, 16))
    x = torch.randn(3, 2, 32)
    blocks, offsets = torch.tensor([2, 0, 2]), torch.tensor([5, 15, 6])
    write(cache, blocks, offsets, x)
    found = gathered(cache, lambda part: part[blocks, :, offsets], torch.float32)
    torch.testing.assert_close(found, x, rtol=0, atol=float(x.abs().max()) / 254 * 1.01)
    assert int((cache.scales != 0).sum()) == 6


def test_keys_and_values_are_stored_alike() -> None:
    plain = torch.zeros(1, 1, 16, 8)
    with pytest.raises(TypeError, match="differently"):
        tensors_of(plain, Int8Blocks(*quantize(plain)))
