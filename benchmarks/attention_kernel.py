"""Bandwidth of decode attention over the paged cache, beside what a copy on the card reaches.

    python benchmarks/attention_kernel.py [--cache-type 8-bit]

Each case runs in a captured graph over several caches, together larger than the card's own cache
of memory, with blocks in random order. Every case is checked against plain torch in float32
before it is timed. The last line is a JSON object with the figures.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.card import copy_speed, seconds
from modules.engine.worker.kernels.attention import DecodeAttention, attend_reference
from modules.engine.worker.kernels.cache_blocks import Blocks, Int8Blocks, quantize

DIM = 128
SHAPES = {"Llama-2-7B": (32, 32), "Llama-3-8B": (32, 8)}
CASES = [
    ("Llama-2-7B", 1, 512), ("Llama-2-7B", 1, 4096), ("Llama-2-7B", 4, 1024),
    ("Llama-2-7B", 16, 1024), ("Llama-3-8B", 1, 512), ("Llama-3-8B", 1, 4096),
    ("Llama-3-8B", 16, 1024),
]  # fmt: skip
CARD_CACHE = 300 * 2**20


@dataclass
class Case:
    """Rows of one length, and several layers' keys and values for them."""

    q: torch.Tensor
    layers: list[tuple[Blocks, Blocks]]
    tables: torch.Tensor
    lengths: torch.Tensor

    @classmethod
    def of(cls, heads: int, kv_heads: int, rows: int, context: int, *, int8: bool) -> Case:
        blocks = rows * -(-context // 16)
        shape = (blocks, kv_heads, 16, DIM)
        size = 2 * blocks * kv_heads * 16 * (DIM + 4 if int8 else 2 * DIM)
        layers = [
            (_blocks(shape, int8=int8), _blocks(shape, int8=int8))
            for _ in range(max(4, -(-CARD_CACHE // size)))
        ]
        tables = torch.randperm(blocks, device="cuda").int().view(rows, -1)
        lengths = torch.full((rows,), context, dtype=torch.int32, device="cuda")
        return cls(_halves(rows, heads, DIM), layers, tables, lengths)

    def check(self, attention: DecodeAttention) -> None:
        for keys, values in (self.layers[0], self.layers[-1]):
            wide = (c.float() if isinstance(c, torch.Tensor) else c for c in (keys, values))
            meant = attend_reference(self.q.float(), *wide, self.tables, self.lengths, DIM**-0.5)
            found = attention(self.q, keys, values, self.tables, self.lengths)
            assert (found.float() - meant).abs().max() < 2e-3


def _blocks(shape: tuple[int, ...], *, int8: bool) -> Blocks:
    numbers = _halves(*shape)
    return Int8Blocks(*quantize(numbers)) if int8 else numbers


def _halves(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device="cuda", dtype=torch.float16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache-type", choices=("16-bit", "8-bit"), default="16-bit")
    kind = parser.parse_args().cache_type
    int8 = kind == "8-bit"
    device = torch.device("cuda")
    copy = copy_speed()
    print(f"{torch.cuda.get_device_name()}: a copy moves {copy / 1e12:.2f} TB/s\n")
    print("| shape | rows | context | us | TB/s | of the copy |\n|---|---|---|---|---|---|")
    figures = []
    for name, rows, context in CASES:
        heads, kv_heads = SHAPES[name]
        attention = DecodeAttention(heads, kv_heads, DIM, torch.float16, device, rows, int8)
        case = Case.of(heads, kv_heads, rows, context, int8=int8)
        case.check(attention)
        out = torch.empty_like(case.q)

        def work(
            case: Case = case, attention: DecodeAttention = attention, out: torch.Tensor = out
        ) -> None:
            for keys, values in case.layers:
                attention(case.q, keys, values, case.tables, case.lengths, out)

        taken = seconds(work) / len(case.layers)
        speed = 2 * rows * context * kv_heads * (DIM + 4 if int8 else 2 * DIM) / taken
        print(f"| {name} | {rows} | {context} | {taken * 1e6:.1f} | {speed / 1e12:.2f} "
              f"| {speed / copy:.0%} |", flush=True)  # fmt: skip
        figures.append({"shape": name, "rows": rows, "context": context, "us": taken * 1e6,
                        "of_copy": speed / copy})  # fmt: skip
        del case, work, out
    about = {"device": torch.cuda.get_device_name(), "copy": copy, "cache": kind}
    print(json.dumps(about | {"cases": figures}))


if __name__ == "__main__":
    main()
