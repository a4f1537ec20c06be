"""Codes into bits and back."""

from __future__ import annotations

import pytest
import torch

from modules.loader.quantization.packing import awq_codes, gptq_rows, pack, unpack
from tests.loader.quantization.stored import awq, stream

BITS = (2, 3, 4, 8)


def codes_of(bits: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(bits)
    return torch.randint(0, 2**bits, shape, generator=generator, dtype=torch.int32).to(torch.uint8)


@pytest.mark.parametrize("bits", BITS)
def test_unpacking_is_the_inverse_of_packing(bits: int) -> None:
    codes = codes_of(bits, 5, 3, 96)
    packed = pack(codes, bits)
    assert packed.shape == (5, 3, 96 * bits // 8)
    assert torch.equal(unpack(packed, bits), codes)


@pytest.mark.parametrize("bits", BITS)
def test_gptq_columns_are_our_rows(bits: int) -> None:
    codes = codes_of(bits, 64, 7)
    assert torch.equal(gptq_rows(stream(codes, bits)), pack(codes.t().contiguous(), bits))


def test_awq_columns_come_back_in_order() -> None:
    codes = codes_of(4, 6, 24)
    assert torch.equal(awq_codes(awq(codes)), codes)
