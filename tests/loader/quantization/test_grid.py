"""Codes that are found again in weights that came out of a 4-bit file."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from modules.loader.quantization.grid import GROUP, on_grid


def layer(weight: Tensor, bias: bool = False) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias)
    made.weight.data = weight
    return made


def levels(least: int, greatest: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Codes float32 [64, 5, 32], scales and lowest levels [64, 5, 1], as GGUF files have them."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(least, greatest + 1, (64, 5, GROUP), generator=generator).float()
    codes[..., 0], codes[..., 1] = least, greatest
    scales = torch.rand(64, 5, 1, generator=generator) * 0.02 + 0.005
    return codes, scales.half().float(), (-7.3 * scales).half().float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("least", "greatest"), [(0, 15), (0, 12), (2, 15), (3, 11)])
def test_weights_on_sixteen_levels_a_group_are_packed_without_loss(
    dtype: torch.dtype, least: int, greatest: int
) -> None:
    codes, scales, low = levels(least, greatest)
    weight = (codes * scales + low).flatten(1)
    found = on_grid(layer(weight.to(dtype)))
    assert found is not None
    assert (found.bits, found.group_size, found.perm) == (4, GROUP, None)
    assert found.zeros is not None
    error = found.dequantize(torch.float32) - weight
    assert float(error.abs().max() / scales.max()) < {torch.float32: 1e-4}.get(dtype, 0.03)


def test_a_group_of_equal_weights_is_on_a_grid() -> None:
    codes, scales, low = levels(0, 15)
    codes[5, 2] = 4
    weight = (codes * scales + low).flatten(1)
    found = on_grid(layer(weight))
    assert found is not None
    torch.testing.assert_close(found.dequantize(torch.float32), weight, rtol=1e-3, atol=1e-4)


def test_ordinary_weights_are_left_alone() -> None:
    assert on_grid(layer(torch.randn(64, 160))) is None


def test_one_group_that_is_off_the_grid_leaves_the_layer_alone() -> None:
    codes, scales, low = levels(0, 15)
    weight = codes * scales + low
    weight[40, 3, 7] += 0.4 * scales[40, 3, 0]
    assert on_grid(layer(weight.flatten(1))) is None


def test_inputs_that_are_no_whole_groups_are_left_alone() -> None:
    assert on_grid(layer(torch.zeros(64, 40))) is None


def test_a_bias_is_kept() -> None:
    codes, scales, low = levels(0, 15)
    plain = layer((codes * scales + low).flatten(1), bias=True)
    found = on_grid(plain)
    assert found is not None
    x = torch.randn(2, 160)
    torch.testing.assert_close(found(x), plain(x), rtol=1e-3, atol=1e-3)
