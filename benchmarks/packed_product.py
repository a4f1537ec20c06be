"""Bandwidth of the product with packed weights, beside what a copy on the card reaches.

    python benchmarks/packed_product.py

Each product runs in a captured graph over several copies of the layer, together larger than the
card's cache. Every shape is checked against plain torch before it is timed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.engine.worker.kernels.packed import PackedKernels
from modules.loader.quantization.linear import QuantizedLinear

SHAPES = {"4096 x 4096": (4096, 4096), "fused QKV": (4096, 12288), "fused gate-up": (4096, 22016),
          "down": (11008, 4096)}  # fmt: skip


def seconds(work: Callable[[], object], repeats: int = 20) -> float:
    """Of one run of `work`, by graph replay."""
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    graph.replay()
    start.record()
    for _ in range(repeats):
        graph.replay()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / repeats


def layer_of(inputs: int, outputs: int, bits: int) -> QuantizedLinear:
    layer = QuantizedLinear(inputs, outputs, bits=bits, group_size=128)
    layer.zeros = layer.perm = None
    layer.weight.data = torch.randint(0, 256, layer.weight.shape, dtype=torch.uint8)
    layer.scales.data = torch.rand(layer.scales.shape).half() * 0.01
    return layer.cuda()


def main() -> None:
    kernels = PackedKernels()
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copy = 2 * source.nbytes / seconds(lambda: target.copy_(source))
    print(f"{torch.cuda.get_device_name()}: a copy moves {copy / 1e12:.2f} TB/s\n")
    print("| shape | bits | rows | us | TB/s | of the copy |\n|---|---|---|---|---|---|")
    for name, (inputs, outputs) in SHAPES.items():
        for bits in (4, 8):
            some = [layer_of(inputs, outputs, bits)]
            size = some[0].weight.nbytes + some[0].scales.nbytes
            some += [layer_of(inputs, outputs, bits) for _ in range(300 * 2**20 // size)]
            for rows in (1, 2, 4, 8):
                x = torch.randn(rows, inputs, device="cuda", dtype=torch.float16)
                meant = x.float() @ some[0].dequantize(torch.float32).t()
                got = kernels.multiply(some[0], x).float()
                assert (got - meant).norm() / meant.norm() < 1e-3, name

                def work(x: torch.Tensor = x, some: list[QuantizedLinear] = some) -> None:
                    for layer in some:
                        kernels.multiply(layer, x)

                taken = seconds(work) / len(some)
                speed = size / taken
                print(f"| {name} | {bits} | {rows} | {taken * 1e6:.1f} | {speed / 1e12:.2f} "
                      f"| {speed / copy:.0%} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
