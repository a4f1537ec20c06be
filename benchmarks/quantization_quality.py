"""What quantizing while loading costs in quality: perplexity on a fixed text against float32.

    python benchmarks/quantization_quality.py models/SmolLM2-135M-Instruct [--tokens 8192]

The text is Python's own language reference as `pydoc` carries it. The starter's weights came
out of a 4-bit file (Q4_1: groups of 32, sixteen steps from the least weight to the greatest),
which would flatter every 4-bit method; so fresh noise of that size, uniform over half a step
each way, is added to them first, and groups are drawn from shuffled inputs, because groups of
32 in order would find the old steps again. Prints a table for benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import math
import pydoc_data.topics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

WINDOW = 1024
# QLoRA's quantiles of a normal distribution (Dettmers et al. 2023, appendix E).
# fmt: off
NF4 = (-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0,
       0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0)
# fmt: on

Method = Callable[[Tensor], Tensor]
"""Weights [rows, group] to what they become."""


def symmetric(bits: int) -> Method:
    top = (1 << (bits - 1)) - 1

    def rounded(w: Tensor) -> Tensor:
        scale = w.abs().amax(-1, keepdim=True).clamp(min=1e-8) / top
        return (w / scale).round().clamp(-top - 1, top) * scale

    return rounded


def asymmetric(bits: int, shrink: float = 1.0, whole: bool = True) -> Method:
    """From the least weight to the greatest; `whole`: the zero point is one of the codes."""
    top = (1 << bits) - 1

    def rounded(w: Tensor) -> Tensor:
        low, high = w.amin(-1, keepdim=True) * shrink, w.amax(-1, keepdim=True) * shrink
        scale = (high - low).clamp(min=1e-8) / top
        zero = (-low / scale).round() if whole else -low / scale
        return ((w / scale + zero).round().clamp(0, top) - zero) * scale

    return rounded


def clipped(bits: int) -> Method:
    """Asymmetric, with the range shrunk to whatever leaves the least squared error."""

    def rounded(w: Tensor) -> Tensor:
        best, least = w, torch.full(w.shape[:-1], math.inf)
        for step in range(20):
            tried = asymmetric(bits, 1 - 0.025 * step)(w)
            error = (tried - w).square().sum(-1)
            best = torch.where((error < least)[..., None], tried, best)
            least = torch.minimum(error, least)
        return best

    return rounded


def half_quadratic(bits: int, steps: int = 20) -> Method:
    """HQQ (Badri and Shaji 2023): the zero point moves so as to lower an l0.7 norm of the error."""
    top, p = (1 << bits) - 1, 0.7

    def rounded(w: Tensor) -> Tensor:
        low, high = w.amin(-1, keepdim=True), w.amax(-1, keepdim=True)
        inverse = (top / (high - low).clamp(min=1e-8)).clamp(max=2e4)
        zero, beta = -low * inverse, 10.0
        for _ in range(steps):
            codes = (w * inverse + zero).round().clamp(0, top)
            error = w - (codes - zero) / inverse
            shrunk = (error.abs() - error.abs().clamp(min=1e-8).pow(p - 1) / beta).clamp(min=0)
            error = shrunk * error.sign()
            zero = (codes - (w - error) * inverse).mean(-1, keepdim=True)
            beta *= 1.01
        return ((w * inverse + zero).round().clamp(0, top) - zero) / inverse

    return rounded


def nf4(w: Tensor) -> Tensor:
    levels = torch.tensor(NF4)
    scale = w.abs().amax(-1, keepdim=True).clamp(min=1e-8)
    middles = (levels[1:] + levels[:-1]) / 2
    return levels[torch.bucketize(w / scale, middles)] * scale


METHODS: dict[str, tuple[Method, int, float]] = {
    "8-bit rounding, one group a row": (symmetric(8), 0, 8.0),
    "8-bit rounding, group 128": (symmetric(8), 128, 8.125),
    "4-bit rounding, symmetric, group 64": (symmetric(4), 64, 4.25),
    "4-bit rounding, whole zero point, group 64": (asymmetric(4), 64, 4.5),
    "4-bit rounding, group 64": (asymmetric(4, whole=False), 64, 4.5),
    "4-bit rounding, range fitted, group 64": (clipped(4), 64, 4.5),
    "4-bit half-quadratic, 20 steps, group 64": (half_quadratic(4), 64, 4.5),
    "4-bit half-quadratic, 8 steps, group 64": (half_quadratic(4, 8), 64, 4.5),
    "NF4, group 64": (nf4, 64, 4.25),
    "4-bit rounding, group 32": (asymmetric(4, whole=False), 32, 5.0),
    "4-bit half-quadratic, 20 steps, group 32": (half_quadratic(4), 32, 5.0),
    "NF4, group 32": (nf4, 32, 4.5),
    "4-bit half-quadratic, 20 steps, group 128": (half_quadratic(4), 128, 4.25),
}


def add_noise(layers: list[nn.Linear]) -> None:
    """As much as a Q4_1 file has taken away."""
    generator = torch.Generator().manual_seed(0)
    for layer in layers:
        groups = layer.weight.data.unflatten(1, (-1, 32))
        step = (groups.amax(-1, keepdim=True) - groups.amin(-1, keepdim=True)) / 15
        groups += step * (torch.rand(groups.shape, generator=generator) - 0.5)


def text_ids(tokenizer: PreTrainedTokenizerBase, count: int) -> list[int]:
    """The first tokens of the text that quality is measured on."""
    text = "\n\n".join(topic for _, topic in sorted(pydoc_data.topics.topics.items()))
    ids: list[int] = tokenizer(text[: count * 6]).input_ids[:count]
    return ids


def perplexity(model: PreTrainedModel, ids: Tensor) -> float:
    losses = []
    with torch.inference_mode():
        for window in ids.split(WINDOW):
            logits = model(window[None]).logits[0, :-1].float()
            losses.append(functional.cross_entropy(logits, window[1:], reduction="none"))
    return float(torch.cat(losses).mean().exp())


def apply(layers: list[nn.Linear], originals: list[Tensor], method: Method, group: int) -> None:
    generator = torch.Generator().manual_seed(1)
    for layer, original in zip(layers, originals, strict=True):
        inputs = original.shape[1]
        size = group or inputs
        order = torch.randperm(inputs, generator=generator)
        padded = functional.pad(original[:, order], (0, -inputs % size))
        result = method(padded.unflatten(1, (-1, size))).flatten(1)[:, :inputs]
        layer.weight.data = torch.empty_like(original).index_copy_(1, order, result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=8192)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    ids = torch.tensor(text_ids(tokenizer, options.tokens))
    blocks = model.get_decoder().layers
    layers = [m for m in blocks.modules() if isinstance(m, nn.Linear)]
    print(f"as it is: {perplexity(model, ids):.4f} over {len(ids)} tokens")
    add_noise(layers)
    base = perplexity(model, ids)
    print(f"\n| method | bits a weight | perplexity | loss |\n|---|---|---|---|\n"
          f"| float32, with noise | 32 | {base:.4f} | |", flush=True)  # fmt: skip
    originals = [layer.weight.data.clone() for layer in layers]
    for name, (method, group, bits) in METHODS.items():
        apply(layers, originals, method, group)
        value = perplexity(model, ids)
        print(f"| {name} | {bits:g} | {value:.4f} | {value / base - 1:+.2%} |", flush=True)


if __name__ == "__main__":
    main()
