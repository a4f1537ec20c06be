"""What a KV cache in 8 bits costs in quality: perplexity on a fixed text, through the fast runner.

    python -m benchmarks.cache_quality [models/SmolLM2-135M-Instruct …] [--tokens 8192]
                                       [--at-once 32] [--device cpu] [--dtype auto]

The text is that of quantization_quality.py, in windows of 1024 tokens. Each window is computed
after its first token in drafts of `--at-once` tokens, so that each token reads what was cached of
those before it: up to 32 as the rows of a decode step, with the kernels of a step; more as chunks
of a prompt. The last line is one JSON object with the figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.quantization_quality import WINDOW, text_ids
from modules.engine.worker.llama.runner import LlamaRunner
from modules.engine.worker.model_info import model_info
from modules.engine.worker.runners import make_runner
from modules.engine.worker.sequence import Track
from modules.loader.options import LoadOptions
from modules.loader.transformers_loader import load

STARTER = Path(__file__).resolve().parents[1] / "models" / "SmolLM2-135M-Instruct"


@dataclass(frozen=True)
class Measured:
    """`likeliest` [tokens] is what would be said greedily at each place."""

    perplexity: float
    likeliest: Tensor
    bytes_a_token: float
    weights: str


def measured(folder: Path, options: LoadOptions, count: int, at_once: int) -> Measured:
    """A model with one kind of cache. Raises LanternError."""
    loaded = load(folder, _quiet, options)
    ids = text_ids(loaded.tokenizer, count)
    info = model_info(folder, loaded, options)
    int8 = options.cache_type == "8-bit"
    runner = make_runner(loaded, WINDOW, WINDOW, _quiet, int8=int8).runner
    if not isinstance(runner, LlamaRunner):
        raise SystemExit(f"{folder.name} is not computed by the fast runner.")
    losses, likeliest = [], []
    for first in range(0, len(ids) - 1, WINDOW):
        window = ids[first : first + WINDOW]
        for logits, meant in _computed(runner, window, at_once):
            losses.append(functional.cross_entropy(logits, meant, reduction="none"))
            likeliest.append(logits.argmax(-1))
    cache = runner._model.cache
    held = cache.numbers.nbytes + (0 if cache.scales is None else cache.scales.nbytes)
    return Measured(
        perplexity=float(torch.cat(losses).mean().exp()),
        likeliest=torch.cat(likeliest).cpu(),
        bytes_a_token=held / (cache.blocks * 16),
        weights=info.dtype if info.quantization == "none" else info.quantization,
    )


def _computed(runner: LlamaRunner, ids: list[int], at_once: int) -> list[tuple[Tensor, Tensor]]:
    """Logits [n, vocabulary] and the tokens [n] that follow, draft by draft."""
    track = Track(id="text", token_ids=ids[:1], max_tokens=len(ids), mix=())
    runner.start(track)
    logits = runner.prefill(track, 1)
    assert logits is not None
    device = logits.device
    found = [(logits[None].clone(), torch.tensor(ids[1:2], device=device))]
    for first in range(1, len(ids) - 1, at_once):
        draft = ids[first : min(first + at_once, len(ids) - 1)]
        rows = runner.extend(track, draft).clone()
        track.token_ids += draft
        found.append((rows, torch.tensor(ids[first + 1 :][: len(draft)], device=device)))
    runner.release(track, keep=False)
    return found


def _quiet(stage: str, fraction: float) -> None:
    """Nobody waits for a report."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, nargs="*", default=[STARTER])
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args()
    print("| model | weights | cache | bytes a token | perplexity | loss | another token |\n"
          "|---|---|---|---|---|---|---|", flush=True)  # fmt: skip
    rows = []
    for folder in options.models:
        plain = LoadOptions(device=options.device, dtype=options.dtype)
        first: Measured | None = None
        for name in ("16-bit", "8-bit"):
            chosen = dataclasses.replace(plain, cache_type=name)  # type: ignore[arg-type]
            now = measured(folder, chosen, options.tokens, options.at_once)
            first = first or now
            loss = now.perplexity / first.perplexity - 1
            other = float((now.likeliest != first.likeliest).float().mean())
            print(f"| {folder.name} | {now.weights} | {name} | {now.bytes_a_token:,.0f} "
                  f"| {now.perplexity:.4f} | {loss:+.3%} | {other:.2%} |", flush=True)  # fmt: skip
            rows.append({"model": folder.name, "cache": name, "perplexity": now.perplexity,
                         "loss": loss, "another_token": other})  # fmt: skip
    print(json.dumps({"benchmark": "cache_quality", "tokens": options.tokens, "rows": rows}))


if __name__ == "__main__":
    main()
