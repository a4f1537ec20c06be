"""The first token of a later turn of a chat, over that of its new tokens alone.

    python -m benchmarks.turns [--kinds gptq] [--history 2048] [--new 50] [--size tiny]

A history is answered first, and then the same history with so many new tokens after it: what is
in the cache need not be computed again (`cached` is the least number of tokens that were). The
bare prefill is a prompt of the new tokens alone. `again` is the same prompt once more, as for a
regenerated reply. Pairs alternate; medians at the client.
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
    parser.add_argument("--history", type=int, default=2048)
    parser.add_argument("--new", type=int, default=50)


async def measure(bench: Bench, options: argparse.Namespace) -> list[Row]:
    if not bench.room_for(options.history + options.new + 2):
        return []
    ask, fresh = bench.asker.ask, bench.asker.fresh_prompt
    bare, later, again, cached = [], [], [], []
    for _ in range(options.repeats + 3):
        bare.append((await ask(await fresh(options.new), greedy(2))).first_token_s)
        history = await fresh(options.history)
        await ask(history, greedy(2))
        prompt = history + await fresh(options.new)
        reply = await ask(prompt, greedy(2))
        later.append(reply.first_token_s)
        cached.append(reply.usage.cached_tokens)
        again.append((await ask(prompt, greedy(2))).first_token_s)
    # The first round warms up.
    alone, turn, same = (statistics.median(times[1:]) for times in (bare, later, again))
    roof = bench.shape.prefill_roof(bench.roof, options.new, options.history)
    usual = (options.history, options.new) == (2048, 50)
    return [
        {
            "kind": bench.case.kind,
            "history": options.history,
            "new": options.new,
            "cached": min(cached),
            "bare ms": alone * 1e3,
            "turn ms": turn * 1e3,
            "again ms": same * 1e3,
            "ratio": turn / alone,
            "roof ms": roof * 1e3,
            "of roof": roof / turn,
            **against("turns", bench.case, 0 if usual else -1, turn / alone),
        }
    ]


TOPIC = Topic("turns", "the first token of a later turn", add_options, measure)


if __name__ == "__main__":
    main_of(TOPIC, __doc__)
