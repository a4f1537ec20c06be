"""Several benchmarks in one run, in which each kind of weights is loaded once.

    python -m benchmarks.all [--topics decode prefill turns concurrency] [--kinds gptq 8bit float16]
                             [--size tiny] [--model DIR] [options of the topics]

Prints the table and the JSON object of each topic, and in the last line one with all of them.
`--topics load` loads each kind three times more, before the others.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import concurrency, decode, prefill, turns
from benchmarks.common import make_parser, run
from benchmarks.load import NAME as LOAD
from benchmarks.load import run as run_load

TOPICS = {
    topic.name: topic for topic in (decode.TOPIC, prefill.TOPIC, turns.TOPIC, concurrency.TOPIC)
}


async def run_all(options: argparse.Namespace) -> int:
    results = [await run_load(options)] if LOAD in options.topics else []
    status = 0
    topics = [topic for name, topic in TOPICS.items() if name in options.topics]
    if topics:
        measured, status = await run(topics, options)
        results += measured
    print(json.dumps({"benchmark": "all", "results": results}))
    return status


def main() -> None:
    parser = make_parser(__doc__, list(TOPICS.values()))
    parser.add_argument("--topics", nargs="+", choices=[*TOPICS, LOAD], default=list(TOPICS))
    sys.exit(asyncio.run(run_all(parser.parse_args())))


if __name__ == "__main__":
    main()
