"""Decode of one chat: tokens a second, greedy and sampled, beside what the memory could give.

    python -m benchmarks.decode [--kinds gptq 8bit float16] [--contexts 128 512] [--tokens 128]
                                [--sampling greedy simple-1] [--size tiny] [--model DIR]

A prompt of each length is answered by so many tokens, three times; the medians count. Times are
those at which the events reach the client: `tok/s` is the whole reply, `steady` the median over
windows of 16 tokens, `worker` what Usage says. The roof reads all weights of the layers and the
head, and the KV cache at its mean length, once a token, at the speed of a copy of this run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Bench, Row, Topic, against, main_of
from benchmarks.replies import greedy, percentile, sampled, window_speed

__all__ = ["TOPIC"]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--contexts", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--tokens", type=int, help="of a reply (default: 128; 32 for tiny)")
    parser.add_argument(
        "--sampling", nargs="+", choices=("greedy", "simple-1"), default=["greedy", "simple-1"]
    )


async def measure(bench: Bench, options: argparse.Namespace) -> list[Row]:
    tokens = options.tokens or (32 if options.size == "tiny" else 128)
    return [
        await one(bench, sampling, context, tokens, options.repeats)
        for context in options.contexts
        if bench.room_for(context + tokens)
        for sampling in options.sampling
    ]


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
