"""Decode of one chat: tokens a second, greedy and sampled, beside what the memory could give.

    python -m benchmarks.decode [--kinds gptq 8bit float16] [--contexts 128 512] [--tokens 128]
                                [--sampling greedy simple-1] [--loras 1] [--rank 16]
                                [--size tiny] [--model DIR]

A prompt of each length is answered by so many tokens, three times; the medians count. Times are
those at which the events reach the client: `tok/s` is the whole reply, `steady` the median over
windows of 16 tokens, `worker` what Usage says. The roof reads all weights of the layers and the
head, and the KV cache at its mean length, once a token, at the speed of a copy of this run.
With `--loras`, so many random ones over all projections are applied to every reply.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Bench, Row, Topic, against, main_of
from benchmarks.random_checkpoint import write_adapter
from benchmarks.replies import greedy, percentile, sampled, window_speed

__all__ = ["TOPIC"]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--contexts", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--tokens", type=int, help="of a reply (default: 128; 32 for tiny)")
    parser.add_argument(
        "--sampling", nargs="+", choices=("greedy", "simple-1"), default=["greedy", "simple-1"]
    )
    parser.add_argument("--loras", type=int, default=0, help="that are applied to the replies")
    parser.add_argument("--rank", type=int, default=16, help="of each of them")


async def measure(bench: Bench, options: argparse.Namespace) -> list[Row]:
    tokens = options.tokens or (32 if options.size == "tiny" else 128)
    await apply_loras(bench, options)
    return [
        {**await one(bench, sampling, context, tokens, options.repeats), **lora_words(options)}
        for context in options.contexts
        if bench.room_for(context + tokens)
        for sampling in options.sampling
    ]


async def apply_loras(bench: Bench, options: argparse.Namespace) -> None:
    """Write random LoRAs for the checkpoint, and apply them."""
    for number in range(options.loras):
        name = f"random-{number}"
        folder = options.dir / f"{bench.case.folder.name}-{name}"
        write_adapter(folder, bench.case.folder, options.rank, number)
        await bench.asker.engine.load_adapter(name, str(folder))


def lora_words(options: argparse.Namespace) -> Row:
    """A column where there are LoRAs."""
    return {"LoRAs": f"{options.loras} of rank {options.rank}"} if options.loras else {}


async def one(bench: Bench, sampling: str, context: int, tokens: int, repeats: int) -> Row:
    """A row: one way of sampling at one length of the prompt."""
    replies = []
    for seed in range(repeats + 1):
        params = greedy(tokens) if sampling == "greedy" else sampled(tokens, seed)
        prompt = await bench.asker.fresh_prompt(context)
        replies.append(await bench.asker.ask(prompt, params))
    replies = replies[1:]  # the first one warms up
    gaps = [gap for reply in replies for gap in reply.gaps]
    speed = statistics.median(reply.tokens_per_s for reply in replies)
    roof = bench.shape.decode_roof(bench.roof.copy, context + tokens / 2)
    return {
        "kind": bench.case.kind,
        "sampling": sampling,
        "context": context,
        "tok/s": speed,
        "steady": statistics.median(window_speed(reply.arrivals) for reply in replies),
        "worker": statistics.median(reply.usage.tokens_per_s for reply in replies),
        "ms a token, median": percentile(gaps, 0.5) * 1e3,
        "ms, 99 %": percentile(gaps, 0.99) * 1e3,
        "roof tok/s": roof,
        "of roof": speed / roof,
        **against("decode", bench.case, context, speed),
    }


TOPIC = Topic("decode", "one chat, tokens a second", add_options, measure)


if __name__ == "__main__":
    main_of(TOPIC, __doc__)
