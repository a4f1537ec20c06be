"""The roof of a run: what the device moves and computes, and what a model asks of it.

    python -m benchmarks.roof [--device auto|cpu]

The other benchmarks run this in a process of its own, before a model is loaded, so that the
memory is free again. A copy counts the bytes that it reads and those that it writes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modules.loader.options import LoadOptions

__all__ = ["Roof", "Shape", "measured_roof"]

ROOT = Path(__file__).resolve().parents[1]
QUANTIZED_BITS = {"8bit": 8.125, "4bit": 4.5}
"""Bits a weight of what is quantized while it is read, scales and zero points included."""


@dataclass(frozen=True, slots=True)
class Roof:
    """What one device does. Bytes a second, and operations (two for a multiply-add) a second."""

    device: str
    cuda: bool
    torch: str
    copy: float
    product: float
    product_of: str

    def words(self) -> str:
        """The line above every table."""
        return (
            f"roof of this run on {self.device} (torch {self.torch}): a copy moves "
            f"{self.copy / 1e12:.3g} TB/s; {self.product_of} reaches "
            f"{self.product / 1e12:.3g} TFLOP/s"
        )


@dataclass(frozen=True, slots=True)
class Shape:
    """The dimensions of a Llama, and from them what its steps read and compute.

    `bits` are those of a weight of its layers, with its share of the scales; embedding and head
    have `itemsize` bytes a number. `cached` is what a key or a value of one head takes in the KV
    cache.
    """

    layers: int
    hidden: int
    middle: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    bits: float
    itemsize: int
    cached: int

    @classmethod
    def of(cls, folder: Path, load: LoadOptions, itemsize: int) -> Shape:
        """Of the checkpoint in a folder, loaded so."""
        config = json.loads((folder / "config.json").read_text())
        heads = config["num_attention_heads"]
        head_dim = config.get("head_dim") or config["hidden_size"] // heads
        return cls(
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            middle=config["intermediate_size"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=head_dim,
            vocabulary=config["vocab_size"],
            bits=_bits(config, load.quantize, itemsize),
            itemsize=itemsize,
            cached=head_dim + 4 if load.cache_type == "8-bit" else head_dim * itemsize,
        )

    @property
    def layer_weights(self) -> int:
        """The weights of all layers' products."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = self.hidden * (2 * queries + 2 * keys)
        return self.layers * (attention + 3 * self.hidden * self.middle)

    @property
    def head_weights(self) -> int:
        """Those of the head."""
        return self.hidden * self.vocabulary

    def weight_bytes(self) -> float:
        """What a step reads of weights, however many tokens it computes."""
        return self.layer_weights * self.bits / 8 + self.head_weights * self.itemsize

    def kv_bytes(self, tokens: float) -> float:
        """Keys and values of so many tokens."""
        return 2 * self.layers * self.kv_heads * self.cached * tokens

    def decode_roof(self, copy: float, context: float, chats: int = 1) -> float:
        """Tokens a second in all, where a step is as fast as reading what it needs once."""
        return chats * copy / (self.weight_bytes() + chats * self.kv_bytes(context))

    def prefill_operations(self, tokens: int, before: int = 0) -> float:
        """To compute `tokens` after `before` others: products, causal attention, one head."""
        attended = tokens * before + tokens * (tokens + 1) / 2
        attention = 4 * self.layers * self.heads * self.head_dim * attended
        return 2 * self.layer_weights * tokens + attention + 2 * self.head_weights

    def prefill_roof(self, roof: Roof, tokens: int, before: int = 0) -> float:
        """Seconds to a first token: computing, or reading the weights if that takes longer."""
        reading = self.weight_bytes() + self.kv_bytes(before)
        return max(self.prefill_operations(tokens, before) / roof.product, reading / roof.copy)


def _bits(config: dict[str, Any], quantize: str, itemsize: int) -> float:
    stored = config.get("quantization_config")
    if stored:
        group = stored.get("group_size") or -1
        return float(stored["bits"] + (16 / group if group > 0 else 0))
    return QUANTIZED_BITS.get(quantize, 8.0 * itemsize)


def measured_roof(device: str) -> Roof:
    """Measure in a process of its own. `device` is auto or cpu."""
    script = str(Path(__file__).resolve())
    done = subprocess.run(
        [sys.executable, script, "--device", device], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"The roof could not be measured:\n{done.stderr}")
    return Roof(**json.loads(done.stdout.splitlines()[-1]))


def _on_card() -> Roof:
    import torch

    def seconds(work: Callable[[], object], repeats: int) -> float:
        event: Any = torch.cuda.Event
        start, end = event(enable_timing=True), event(enable_timing=True)
        work()
        start.record()
        for _ in range(repeats):
            work()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / repeats

    copy = 0.0
    for size in (2**29, 2**30, 2**32):
        if torch.cuda.mem_get_info()[0] < 3 * size:
            continue
        source = torch.zeros(size // 4, dtype=torch.float32, device="cuda")
        target = torch.empty_like(source)
        copy = max(copy, 2 * size / seconds(partial(target.copy_, source), 20))
        del source, target
    side = 8192
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    product = max(2 * side**3 / seconds(lambda: a @ b, 20) for _ in range(3))
    name = torch.cuda.get_device_name()
    return Roof(name, True, torch.__version__, copy, product, "a bfloat16 product of 8192 cubed")


def _on_processor() -> Roof:
    import torch

    def seconds(work: Callable[[], object]) -> float:
        work()
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    size, side = 2**28, 1024
    source = torch.zeros(size // 4)
    target = torch.empty_like(source)
    copy = max(2 * size / seconds(lambda: target.copy_(source)) for _ in range(3))
    a, b = (torch.randn(side, side) for _ in range(2))
    product = max(2 * side**3 / seconds(lambda: a @ b) for _ in range(5))
    name = f"processor, {torch.get_num_threads()} threads"
    return Roof(name, False, torch.__version__, copy, product, "a float32 product of 1024 cubed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    device = parser.parse_args().device

    import torch

    roof = _on_card() if device == "auto" and torch.cuda.is_available() else _on_processor()
    print(roof.words())
    print(json.dumps(asdict(roof)))


if __name__ == "__main__":
    main()
