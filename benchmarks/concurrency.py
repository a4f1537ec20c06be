"""Many chats at once: tokens a second in all, and how evenly they are served.

    python -m benchmarks.concurrency [--kinds gptq] [--chats 1 4 16 32] [--chat-context 1024]
                                     [--chat-tokens 256] [--size tiny]

All chats send prompts of their own at the same moment and sample with the preset simple-1, each
with its own seed. `tok/s` counts from the moment when all of them stream until the first one is
done; where they never all stream at once it is empty, and `overall`, from the first request to
the last token, prefill included, is the figure. `fairness` is the slowest chat's speed over the
fastest one's. The roof reads the weights and all KV caches once a step.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Bench, Row, Topic, against, main_of, memory_used
from benchmarks.replies import Reply, percentile, sampled

__all__ = ["TOPIC", "speed_together"]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--chats", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--chat-context", type=int, default=1024)
    parser.add_argument("--chat-tokens", type=int, help="of a reply (default: 256; 32 for tiny)")


async def measure(bench: Bench, options: argparse.Namespace) -> list[Row]:
    tokens = options.chat_tokens or (32 if options.size == "tiny" else 256)
    if not bench.room_for(options.chat_context + tokens):
        return []
    return [await one(bench, chats, options.chat_context, tokens) for chats in options.chats]


async def one(bench: Bench, chats: int, context: int, tokens: int) -> Row:
    """A row: one number of chats."""
    prompts = [await bench.asker.fresh_prompt(context) for _ in range(chats)]
    replies = await asyncio.gather(
        *(bench.asker.ask(prompt, sampled(tokens, n)) for n, prompt in enumerate(prompts))
    )
    together = speed_together([reply.arrivals for reply in replies])
    count = sum(len(reply.arrivals) for reply in replies)
    sent = min(reply.sent for reply in replies)
    overall = count / (max(reply.arrivals[-1] for reply in replies) - sent)
    roof = bench.shape.decode_roof(bench.roof.copy, context + tokens / 2, chats)
    speed = overall if together is None else together
    return {
        "kind": bench.case.kind,
        "chats": chats,
        "context": context,
        "tok/s": together,
        "overall": overall,
        "slowest": min(reply.tokens_per_s for reply in replies),
        "fairness": fairness(replies),
        "first token ms": percentile([r.first_token_s for r in replies], 0.5) * 1e3,
        "last chat's": max(reply.first_token_s for reply in replies) * 1e3,
        "ms a token, 99 %": percentile([g for r in replies for g in r.gaps], 0.99) * 1e3,
        "GB": memory_used(bench.asker.engine.pid, bench.roof.cuda) / 1e9,
        "roof tok/s": roof,
        "of roof": speed / roof,
        **against("concurrency", bench.case, chats if context == 1024 else 0, speed),
    }


def fairness(replies: Sequence[Reply]) -> float:
    """The slowest chat's speed over the fastest one's: 1 is even."""
    speeds = [reply.tokens_per_s for reply in replies]
    return min(speeds) / max(speeds) if max(speeds) > 0 else 0.0


def speed_together(arrivals: Sequence[Sequence[float]]) -> float | None:
    """Tokens a second of all chats while all of them stream; None if they never do."""
    begin = max(times[0] for times in arrivals)
    end = min(times[-1] for times in arrivals)
    if end <= begin:
        return None
    return sum(begin < time <= end for times in arrivals for time in times) / (end - begin)


TOPIC = Topic("concurrency", "many chats, tokens a second in all", add_options, measure)


if __name__ == "__main__":
    main_of(TOPIC, __doc__)
