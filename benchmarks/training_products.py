"""What each product of one training step of a layer takes, wide ones and those of LoRAs.

    python -m benchmarks.training_products [--tokens 8192] [--rank 16]

For the shape of Llama-2-7B in bfloat16, as modules/training/trainer/fast/products.py has them.
`roof` is what the products of the roof, or reading at the speed of a copy, would take; besides
stand the attention over full rows and over short ones, and what is computed row by row.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn

from benchmarks.card import copy_speed, seconds
from benchmarks.common import Row, table
from benchmarks.training_model import drawn_lengths
from modules.training.trainer.attention import Rows, attend_backward, attend_forward
from modules.training.trainer.fast.check import best_rows
from modules.training.trainer.fast.products import DenseProduct, Lora, Part

SHAPES = {"qkv": (4096, (4096,) * 3), "o": (4096, (4096,)), "gate-up": (4096, (11008,) * 2),
          "down": (11008, (4096,))}  # fmt: skip
DTYPE = torch.bfloat16


def made(inputs: int, outputs: tuple[int, ...], rank: int) -> DenseProduct:
    """A product of random projections with LoRAs."""
    parts = []
    for size in outputs:
        layer = nn.Linear(inputs, size, bias=False, device="cuda", dtype=DTYPE)
        a, b = (
            nn.Parameter(torch.randn(*shape, device="cuda") * 0.02)
            for shape in ((rank, inputs), (size, rank))
        )
        parts.append(Part(layer, Lora(a, b, 2.0)))
    product = DenseProduct(parts, DTYPE, torch.device("cuda", 0))
    product.refresh()
    return product


def products(name: str, tokens: int, rank: int, square: float, copy: float) -> list[Row]:
    """Each part of a product's forward and backward by itself."""
    inputs, outputs = SHAPES[name]
    product = made(inputs, outputs, rank)
    x, dy = product.room(tokens), product.room_for_gradient(tokens)
    for tensor in (x, dy):
        tensor.normal_()
    plain, gradient = x[:, :inputs].contiguous(), dy[:, : product.outputs].contiguous()
    weight = torch.randn(product.outputs, inputs, device="cuda", dtype=DTYPE)
    operations = 2 * tokens * inputs * product.outputs
    narrow = product.narrow(x)
    wide, back = product._weight, dy[:, product.outputs :].contiguous()
    full = torch.float32
    large: dict[str, Callable[[], object]] = {
        "y, no LoRA": lambda: torch.mm(plain, weight.t()),
        "y": lambda: torch.mm(x, wide[: product.outputs].t()),
        "dx, no LoRA": lambda: torch.mm(gradient, weight),
        "dx": lambda: torch.mm(dy, wide[:, :inputs]),
    }
    small: dict[str, tuple[int, Callable[[], object]]] = {
        "x A": (plain.nbytes, lambda: torch.mm(plain, product.a.t())),
        "dy B": (gradient.nbytes, lambda: torch.mm(dy[:, : product.outputs], product.b)),
        "dB": (gradient.nbytes, lambda: torch.mm(gradient.t(), narrow, out_dtype=full)),
        "dB, turned": (gradient.nbytes, lambda: torch.mm(narrow.t(), gradient, out_dtype=full)),
        "dB in 16 bits": (gradient.nbytes, lambda: torch.mm(gradient.t(), narrow)),
        "dA": (plain.nbytes, lambda: torch.mm(back.t(), plain, out_dtype=full)),
        "dA, turned": (plain.nbytes, lambda: torch.mm(plain.t(), back, out_dtype=full)),
        "dA in 16 bits": (plain.nbytes, lambda: torch.mm(back.t(), plain)),
    }
    rows: list[Row] = []
    for what, work in large.items():
        rows.append(row(f"{name}: {what}", seconds(work), operations / square))
    for what, (size, work) in small.items():
        # A copy reads and writes; this reads.
        rows.append(row(f"{name}: {what}", seconds(work), size / copy))
    return rows


def row(what: str, taken: float, roof: float) -> Row:
    return {"what": what, "us": taken * 1e6, "roof us": roof * 1e6, "of roof": roof / taken}


def attention(name: str, lengths: list[int], square: float) -> list[Row]:
    """Causal, 32 heads of 128."""
    total = sum(lengths)
    q, k, v, dout = (torch.randn(total, 32, 128, device="cuda", dtype=DTYPE) for _ in range(4))
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    rows = Rows.of(bounds, max(lengths), q.device)
    out, lse = attend_forward(q, k, v, rows, 0.1)
    saved = (q, k, v, out, lse)
    roof = sum(4 * n * (n + 1) / 2 * 4096 for n in lengths) / square
    forward = seconds(lambda: attend_forward(q, k, v, rows, 0.1))
    backward = seconds(lambda: attend_backward(dout, saved, rows, 0.1))
    return [
        row(f"attention over {name}", forward, roof),
        row(f"its backward over {name}", backward, 2.5 * roof),
    ]


def row_by_row(tokens: int, copy: float) -> list[Row]:
    """The kernels of rows.cu; the roof moves what each reads and writes."""
    rows = best_rows(DTYPE, torch.device("cuda", 0))
    width, middle = 4096, 11008

    def random(columns: int) -> Tensor:
        return torch.randn(tokens, columns, device="cuda", dtype=DTYPE)

    x, more, y, weight = random(width), random(width), random(width), random(width)[0].clone()
    cos, sin, gate_up, gated = random(128), random(128), random(2 * middle), random(middle)
    qkv, grads = random(3 * width), random(2 * middle)
    heads = tuple(random(width).view(tokens, 32, 128) for _ in range(3))
    once = x.nbytes
    work: dict[str, tuple[float, Callable[[], object]]] = {
        "norm": (2, lambda: rows.norm(x, weight, 1e-5, y)),
        "sum and norm": (4, lambda: rows.add_norm(x, more, weight, 1e-5, y)),
        "norm, backward": (5, lambda: rows.norm_backward(x, weight, y, more, 1e-5, y)),
        "rotary embedding": (4, lambda: rows.turn(qkv, cos, sin, 64)),
        "rotary embedding, backward": (6, lambda: rows.turn_backward(heads, cos, sin, qkv)),  # type: ignore[arg-type]
        "gate": (3 * middle / width, lambda: rows.gate(gate_up, gated)),
        "gate, backward": (6 * middle / width, lambda: rows.gate_backward(gate_up, gated, grads)),
    }
    return [row(what, seconds(call), once * n / copy) for what, (n, call) in work.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--rank", type=int, default=16)
    options = parser.parse_args()
    copy = copy_speed()
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=DTYPE) for _ in range(2))
    square = 2 * 8192**3 / seconds(lambda: torch.mm(a, b))
    print(
        f"{torch.cuda.get_device_name()}: a copy moves {copy / 1e12:.2f} TB/s; a product of 8192 "
        f"cubed reaches {square / 1e12:.0f} TFLOP/s"
    )
    rows = [
        found
        for name in SHAPES
        for found in products(name, options.tokens, options.rank, square, copy)
    ]
    lengths = drawn_lengths(options.tokens // 130)
    rows += attention("short rows", lengths, square)
    rows += attention("rows of 2048", [2048] * (options.tokens // 2048), square)
    rows += row_by_row(options.tokens, copy)
    print(table(rows))
    print(json.dumps({"benchmark": "training products", "rows": rows}))


if __name__ == "__main__":
    main()
