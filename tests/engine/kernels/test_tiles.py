"""Weights in tiles stand for what the layers they were made of stand for."""

from __future__ import annotations

import pytest
import torch

from modules.engine.worker.kernels.tiles import Tiles
from tests.engine.kernels.layers import quantized

FORMS = [(4, 128, False), (4, 32, True), (8, 64, False), (8, -1, True)]


@pytest.mark.parametrize(("bits", "group", "zeros"), FORMS)
def test_layers_are_taken_together(bits: int, group: int, zeros: bool) -> None:
    layers = [quantized(256, outputs, bits, group, zeros) for outputs in (32, 48)]
    meant = torch.cat([layer.dequantize(torch.float32) for layer in layers])
    tiles = Tiles.of(layers)
    assert torch.equal(tiles.dequantize(torch.float32), meant)
    order = torch.randperm(80)
    assert torch.equal(Tiles.of(layers, order).dequantize(torch.float32), meant[order])


def test_a_layer_without_zero_points_goes_with_one_that_has_them() -> None:
    layers = [quantized(64, 16, 4, 32, zeros) for zeros in (False, True)]
    meant = torch.cat([layer.dequantize(torch.float32) for layer in layers])
    assert torch.equal(Tiles.of(layers).dequantize(torch.float32), meant)


def test_a_lane_has_its_codes_in_one_word() -> None:
    # What product.cu relies on: lane 4 g + q has, of its four words, word 2 half + step with the
    # outputs g (even nibbles) and g + 8 (odd ones) at the inputs 32 half + 8 q + 4 step + 0..3.
    layer = quantized(64, 16, 4)
    word = Tiles.of([layer]).codes.view(torch.int32).view(32, 4)
    codes = torch.stack([layer.weight & 15, layer.weight >> 4], -1).view(16, 64)
    g, q, half, step = 5, 2, 1, 0
    packed = int(word[4 * g + q, 2 * half + step]) & 0xFFFFFFFF
    first = 32 * half + 8 * q + 4 * step
    nibbles = [packed >> 4 * n & 15 for n in range(8)]
    for output, register in ((g, 0), (g + 8, 1)):
        got = [nibbles[register + 2 * (k // 2) + 4 * (k % 2)] for k in range(4)]
        assert got == codes[output, first : first + 4].tolist()


@pytest.mark.parametrize(
    ("inputs", "outputs", "bits", "group"),
    [(96, 16, 4, 32), (64, 24, 4, 32), (64, 16, 3, 32), (64, 16, 4, 16), (192, 16, 4, 128)],
)
def test_what_has_no_whole_tiles_does_not_fit(
    inputs: int, outputs: int, bits: int, group: int
) -> None:
    assert not Tiles.fits(quantized(inputs, outputs, bits, group))
    assert Tiles.fits(quantized(128, 16, 4, 64))
