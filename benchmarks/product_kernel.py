"""Bandwidth of the product on the tensor cores, beside what a copy on the card reaches.

    python benchmarks/product_kernel.py [--sweep]

Each product runs in a captured graph over several copies of the weights, together larger than
the card's cache, and is checked against plain torch before it is timed. `--sweep` tries other
ways to divide the work.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.card import copy_speed, seconds
from modules.engine.worker.kernels.product import ProductKernels, _Shape
from modules.engine.worker.kernels.tiles import Tiles

SHAPES = {"4096 x 4096": (4096, 4096), "fused QKV": (4096, 12288), "fused gate-up": (4096, 22016),
          "down": (11008, 4096)}  # fmt: skip
SWEEP = {
    1: [(1, 1, 16, 4, 1), (1, 1, 16, 4, 2), (1, 1, 16, 6, 2), (1, 1, 16, 3, 2)],
    8: [(1, 1, 16, 4, 1), (1, 1, 16, 4, 2), (1, 2, 16, 4, 1), (1, 2, 8, 4, 2)],
    16: [(2, 2, 16, 4, 1), (2, 4, 8, 4, 1), (2, 2, 16, 2, 1), (2, 1, 32, 4, 1)],
    32: [(4, 1, 8, 4, 2), (4, 2, 8, 4, 1), (4, 2, 16, 2, 1)],
}  # fmt: skip


def weights(inputs: int, outputs: int, bits: int) -> Tiles:
    tile, groups = 128 * bits, inputs // 128
    codes = torch.randint(0, 256, (outputs // 16, inputs // 64, tile), dtype=torch.uint8, device=0)
    scales = torch.rand(outputs // 16, groups, 8, 2, device=0).half() * 0.01
    return Tiles(codes, scales, None, bits, 128, inputs, outputs)


def measure(name: str, bits: int, copy: float, sweep: bool) -> None:
    inputs, outputs = SHAPES[name]
    some = [weights(inputs, outputs, bits)]
    size = some[0].nbytes
    some += [weights(inputs, outputs, bits) for _ in range(200 * 2**20 // size)]
    exact = some[0].dequantize(torch.float32)
    for rows in (1, 8, 16, 32):
        x = torch.randn(rows, inputs, device="cuda", dtype=torch.float16)
        y = torch.empty(rows, outputs, device="cuda", dtype=torch.float16)
        ways = SWEEP.get(rows, []) if sweep else []
        for way in ways or [None]:
            kernels = ProductKernels(torch.device("cuda", 0), torch.float16)
            if way is not None:
                kernels.shape_of = lambda rows, weight, way=way: _Shape(*way)
            got = kernels.multiply(some[0], x, y).float()
            meant = x.float() @ exact.t()
            assert (got - meant).norm() / meant.norm() < 1e-3, (name, rows, way)

            def work(
                x: torch.Tensor = x, y: torch.Tensor = y, kernels: ProductKernels = kernels
            ) -> None:
                for weight in some:
                    kernels.multiply(weight, x, y)

            taken = seconds(work) / len(some)
            speed = size / taken
            print(f"| {name} | {bits} | {rows} | {way or ''} | {taken * 1e6:.1f} "
                  f"| {speed / 1e12:.2f} | {speed / copy:.0%} |", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sweep", action="store_true")
    options = parser.parse_args()
    copy = copy_speed()
    print(f"{torch.cuda.get_device_name()}: a copy moves {copy / 1e12:.2f} TB/s\n")
    print("| shape | bits | rows | way | us | TB/s | of the copy |\n|---|---|---|---|---|---|---|")
    torch.backends.cuda.matmul.allow_tf32 = False
    for name in SHAPES:
        for bits in (4, 8):
            measure(name, bits, copy, options.sweep)


if __name__ == "__main__":
    main()
