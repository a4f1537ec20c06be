"""Where the time of a decode step and of a prompt goes on a card, kernel by kernel.

    python -m benchmarks.kernel_times [--rows 1 4 16] [--context 1024] [--prompts 50 2048]
                                      [--kind gptq] [--size 7b]

The scheduler runs in this process, as it does in the worker, under torch's profiler. A kernel's
time is that from the end of the kernel before it to its own end, so that the sum is the time of the
step, gaps and launches included: kernels that begin while the one before still runs would count
twice otherwise. Profiling slows the launches of prompts, so compare their shares and not their sums
with the figures of other benchmarks. Prints tables; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.common import Case, random_checkpoint
from benchmarks.replies import greedy, sampled
from benchmarks.roof import measured_roof
from modules.engine.params import SamplingParams
from modules.engine.protocol import GenerateRequest
from modules.engine.worker.model_info import model_info
from modules.engine.worker.runners import make_runner
from modules.engine.worker.scheduler import Scheduler
from modules.loader.options import LoadOptions
from modules.loader.transformers_loader import load

KINDS = {"gptq": ("gptq", "none"), "8bit": ("float16", "8bit")}
STEPS = 20
SHOWN = 14
LETTERS = "abcdefghijklmnopqrstuvwxyz      "


def scheduler_of(case: Case) -> tuple[Scheduler, int]:
    """As the worker makes it, and the context that it is for."""
    command = case.command()
    loaded = load(case.folder, lambda *_: None, command.options, command.placement)
    info = model_info(case.folder, loaded, command.options)
    ready = make_runner(loaded, info.context_length, command.cache_tokens, lambda *_: None)
    made = Scheduler(
        ready.runner,
        loaded.tokenizer,
        frozenset(),
        info.context_length,
        prefill_chunk=ready.chunk,
        shared_chunk=ready.shared_chunk,
        flights=ready.flights,
    )
    return made, info.context_length


def request(scheduler: Scheduler, name: str, tokens: int, params: SamplingParams) -> Any:
    """A request for a reply to a prompt of so many tokens that begins as no other."""
    text = "".join(random.Random(name).choices(LETTERS, k=8 * tokens))
    encoded = scheduler._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    text = text[: encoded["offset_mapping"][:tokens][-1][1]]
    return GenerateRequest(name, text, params, special_tokens=False)


def profiled(work: Callable[[], None]) -> tuple[dict[str, list[float]], float]:
    """For each kernel its times in us, and the seconds that `work` took without the profiler."""
    cuda = torch.cuda.is_available()
    activity = ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU
    with profile(activities=[activity]) as found:
        work()
        if cuda:
            torch.cuda.synchronize()
    events: Any = found.profiler.kineto_results.events()  # type: ignore[union-attr]
    times: dict[str, list[float]] = defaultdict(list)
    end = None
    for event in sorted(events, key=lambda event: event.start_ns()):
        if cuda and "CUDA" not in str(event.device_type()):
            continue
        done = event.start_ns() + event.duration_ns()
        if end is not None:
            times[event.name()[:60]].append(max(0, done - end) / 1e3)
        end = max(end or 0, done)
    started = time.perf_counter()
    work()
    if cuda:
        torch.cuda.synchronize()
    return times, time.perf_counter() - started


def tell(title: str, times: dict[str, list[float]], steps: int) -> dict[str, float]:
    whole = sum(map(sum, times.values())) / steps
    print(f"\n{title}: {whole / 1e3:.3f} ms on the card\n\n| kernel | count | us each | us |")
    print("|---|---|---|---|")
    ranked = sorted(times.items(), key=lambda item: -sum(item[1]))
    for name, each in ranked[:SHOWN]:
        count = len(each) / steps
        print(f"| {name} | {count:.1f} | {sum(each) / len(each):.1f} | {sum(each) / steps:.0f} |")
    return {name: round(sum(each) / steps, 1) for name, each in ranked}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--rows", type=int, nargs="*", default=[1, 4, 16])
    add("--context", type=int, default=1024)
    add("--prompts", type=int, nargs="*", default=[50, 2048])
    add("--kind", choices=tuple(KINDS), default="gptq")
    add("--size", choices=("7b", "small", "tiny"), default="7b")
    add("--dir", type=Path, default=Path("/tmp/lantern-benchmarks"))
    options = parser.parse_args()
    written, quantize = KINDS[options.kind]
    roof = measured_roof("auto")
    print(roof.words(), flush=True)
    folder = random_checkpoint(options.dir, written, options.size)
    load_options = LoadOptions(quantize=quantize)  # type: ignore[arg-type]
    scheduler, _ = scheduler_of(Case(options.kind, folder, load_options, roof, True, False))
    figures: dict[str, Any] = {}

    def settle(done: Callable[[], bool]) -> None:
        while not done():
            scheduler.step()

    for rows in options.rows:
        for number in range(rows):
            params = sampled(6 * STEPS, seed=1)
            scheduler.add(request(scheduler, f"{rows}-{number}", options.context, params))
        settle(lambda rows=rows: len(scheduler._running) == rows)  # type: ignore[misc]

        def steps() -> None:
            for _ in range(STEPS):
                scheduler.step()

        steps()
        times, taken = profiled(steps)
        title = f"step of {rows} rows at {options.context}, {taken / STEPS * 1e3:.3f} ms unprofiled"
        figures[title] = tell(title, times, STEPS)
        settle(lambda: not scheduler.has_work)
    for tokens in options.prompts:
        asked = [request(scheduler, f"{tokens}-{n}", tokens, greedy(1)) for n in range(3)]

        def prompt(asked: list[Any] = asked) -> None:
            scheduler.add(asked.pop())
            settle(lambda: not scheduler.has_work)

        prompt()
        times, taken = profiled(prompt)
        title = f"prompt of {tokens}, {taken * 1e3:.2f} ms unprofiled"
        figures[title] = tell(title, times, 1)
    print(json.dumps({"device": roof.device, "figures": figures}))


if __name__ == "__main__":
    main()
