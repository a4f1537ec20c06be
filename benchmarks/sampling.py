"""How long the sampling of a decode step takes, for all rows at once and request by request.

    python -m benchmarks.sampling [--device auto|cpu] [--steps 50]

The times are microseconds a step: those of the host until it may go on, those of the device (on
a card, by events around steps that follow each other), and those of a chain a request, which
waits for each token. Of the first two the larger one counts, and on a card the host's only where
it has nothing to wait for. The roof reads the logits once. Each case is checked against the
chains before it is timed. The last line is a JSON object with the figures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.engine.params import SamplingParams
from modules.engine.worker.sampler import Sampler
from modules.engine.worker.sampling.batch.row import Row
from modules.engine.worker.sampling.batch.sampler import BatchSampler

VOCABS, ROWS = (32_000, 128_256), (1, 4, 16)
PROMPT = 1024
CASES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "simple-1": {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.15, "top_k": 20},
    "top p": {"top_p": 0.9},
    "min p": {"temperature": 0.8, "min_p": 0.05},
    "mirostat 2": {"mirostat_mode": 2},
    "DRY": {"dry_multiplier": 0.8, "temperature": 0.7},
}
MIXED = "one of each"


def requests(name: str, count: int) -> list[SamplingParams]:
    cases = list(CASES.values()) if name == MIXED else [CASES[name]]
    return [SamplingParams.neutral(seed=i, **cases[i % len(cases)]) for i in range(count)]


class Bench:
    """Logits, and for each row a request in both ways."""

    def __init__(self, name: str, rows: int, vocab: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(rows)
        self.device = device
        self.logits = (torch.randn(rows, vocab, generator=generator) * 3).to(device)
        self.texts = torch.randint(0, 500, (rows, PROMPT), generator=generator).tolist()
        self.samplers = [Sampler(params, frozenset({0})) for params in requests(name, rows)]
        self.batch = BatchSampler(vocab, device)
        self.rows: list[Row] = [
            self.batch.begin(one, text) for one, text in zip(self.samplers, self.texts, strict=True)
        ]

    def check(self) -> None:
        processed = self.batch.process(self.logits, self.rows)
        for one, text, row, mine in zip(
            self.samplers, self.texts, self.logits, processed, strict=True
        ):
            theirs = one.process(row, text).softmax(-1)
            assert (mine.softmax(-1) - theirs).abs().max() < 1e-4

    def together(self) -> None:
        self.batch.sample(self.logits, self.rows)

    def apart(self) -> None:
        for one, text, row in zip(self.samplers, self.texts, self.logits, strict=True):
            one.sample(row, text)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def host(self, work: Callable[[], None], steps: int) -> float:
        """Microseconds, the median, from the start of a step to where the host may go on."""
        spent = []
        for _ in range(steps):
            self.wait()
            started = time.perf_counter()
            work()
            spent.append(time.perf_counter() - started)
        return statistics.median(spent) * 1e6

    def on_device(self, steps: int) -> float | None:
        """Microseconds of the card for a step, where it need not wait for the host."""
        if self.device.type != "cuda":
            return None
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        # Something long comes first, so that the launches are ahead of the card.
        filler = torch.empty(2**30, dtype=torch.uint8, device=self.device)
        for i in range(12 * steps):
            filler.fill_(i % 7)
        start.record()
        for _ in range(steps):
            self.together()
        end.record()
        self.wait()
        return float(start.elapsed_time(end)) * 1e3 / steps


def roof(device: torch.device) -> float:
    """Bytes a second that a copy moves, those that it reads and those that it writes."""
    source = torch.empty(2**30 if device.type == "cuda" else 2**28, dtype=torch.uint8)
    source = source.to(device)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        target.copy_(source)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * source.nbytes / (time.perf_counter() - started))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    parser.add_argument("--steps", type=int, default=50)
    options = parser.parse_args()
    card = options.device == "auto" and torch.cuda.is_available()
    device = torch.device("cuda" if card else "cpu")
    name = torch.cuda.get_device_name() if card else f"processor, {torch.get_num_threads()} cores"
    copy, figures = roof(device), []
    print(f"roof of this run on {name}: a copy moves {copy / 1e12:.3g} TB/s\n")
    print("| vocabulary | rows | case | host us | device us | chains us | ratio | roof us |")
    print("|---|---|---|---|---|---|---|---|")
    for vocab in VOCABS:
        for rows in ROWS:
            for case in (*CASES, *([MIXED] if rows > 1 else [])):
                bench = Bench(case, rows, vocab, device)
                bench.check()
                bench.host(bench.together, 3)
                host = bench.host(bench.together, options.steps)
                busy = bench.on_device(options.steps)
                chains = bench.host(bench.apart, max(3, options.steps // 5))
                least = bench.logits.nbytes / copy * 1e6
                ratio = chains / max(host, busy or 0)
                shown = "" if busy is None else f"{busy:.0f}"
                print(f"| {vocab} | {rows} | {case} | {host:.0f} | {shown} | {chains:.0f} "
                      f"| {ratio:.1f} | {least:.1f} |", flush=True)  # fmt: skip
                figures.append({"vocabulary": vocab, "rows": rows, "case": case, "host_us": host,
                                "device_us": busy, "chains_us": chains})  # fmt: skip
    print(json.dumps({"device": name, "copy": copy, "sampling": figures}))


if __name__ == "__main__":
    main()
