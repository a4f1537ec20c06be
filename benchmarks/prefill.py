"""Time to the first token of a prompt of which nothing is cached.

    python -m benchmarks.prefill [--kinds gptq 8bit float16] [--lengths 512 2048]
                                 [--size tiny] [--model DIR]

Every prompt is another one. `ms` is the median from the request to its first token at the client,
`worker ms` what Usage says. The roof computes the products of the layers, causal attention and
one position's head at the speed of a product of this run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Bench, Row, Topic, against, main_of
from benchmarks.replies import greedy

__all__ = ["TOPIC"]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048])


async def measure(bench: Bench, options: argparse.Namespace) -> list[Row]:
    return [
        await one(bench, tokens, options.repeats)
        for tokens in options.lengths
        if bench.room_for(tokens + 2)
    ]


async def one(bench: Bench, tokens: int, repeats: int) -> Row:
    """A row: one length."""
    replies = []
    for _ in range(repeats + 2):
        prompt = await bench.asker.fresh_prompt(tokens)
        replies.append(await bench.asker.ask(prompt, greedy(2)))
    replies = replies[1:]
    seconds = statistics.median(reply.first_token_s for reply in replies)
    roof = bench.shape.prefill_roof(bench.roof, tokens)
    return {
        "kind": bench.case.kind,
        "tokens": replies[0].usage.prompt_tokens,
        "cached": max(reply.usage.cached_tokens for reply in replies),
        "ms": seconds * 1e3,
        "fastest": min(reply.first_token_s for reply in replies) * 1e3,
        "worker ms": statistics.median(reply.usage.first_token_s for reply in replies) * 1e3,
        "tok/s": tokens / seconds,
        "roof ms": roof * 1e3,
        "of roof": roof / seconds,
        **against("prefill", bench.case, tokens, seconds * 1e3),
    }


TOPIC = Topic("prefill", "milliseconds to the first token", add_options, measure)


if __name__ == "__main__":
    main_of(TOPIC, __doc__)
