"""How long a load takes, and what the plan said against what the machine reports.

    python -m benchmarks.load [--kinds gptq 8bit 4bit float16] [--size tiny] [--model DIR]
                              [--context-length 4096]

Each kind is loaded three times by an engine worker, as the page does it: from nothing, again, and
into a worker that was prepared, as one is when somebody looks at the Model tab. The files are in
the page cache then. One request fills the context, and the worker's memory is read: from the
driver for a card, from the kernel for the processor (anonymous memory, so that mapped files do
not count). After the unload it is read once more. The roof copies the weights once in memory.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import (
    Case,
    Report,
    Row,
    against,
    cases_of,
    make_parser,
    memory_used,
)
from benchmarks.replies import Asker, greedy
from benchmarks.roof import measured_roof
from modules.engine.local import LocalEngine

__all__ = ["ABOUT", "NAME", "measure_load"]

NAME, ABOUT = "load", "seconds until a model answers, and memory"
_PREPARING_S = 12
_REPLY = 64


async def measure_load(case: Case) -> Row:
    """A row: one kind of weights. Ends with nothing loaded."""
    plan, card = case.plan(), case.roof.cuda
    before = memory_used(None, card)
    engine = LocalEngine()
    command = case.command()
    seconds = []
    for prepared in (False, False, True):
        if prepared:
            engine.prepare()
            await asyncio.sleep(_PREPARING_S)
        started = time.monotonic()
        following = asyncio.create_task(stages(engine, started))
        info = await engine.load(command)
        seconds.append(time.monotonic() - started)
        following.cancel()
    asker = Asker(engine)
    prompt = await asker.fresh_prompt(info.context_length - _REPLY - 1)
    full = await asker.ask(prompt, greedy(_REPLY))
    used = memory_used(engine.pid, card) - before
    speed = (await asker.ask(await asker.fresh_prompt(512), greedy(_REPLY))).tokens_per_s
    await engine.close()
    left = memory_used(engine.pid, card) - before
    planned = next(d.used for d in plan.devices if card == d.device.startswith("cuda"))
    roof = 2 * info.memory / case.roof.copy
    return {
        "kind": case.kind,
        "loaded as": plan.weights,
        "first s": seconds[0],
        "again s": seconds[1],
        "prepared s": seconds[2],
        "roof s": roof,
        "of roof": roof / seconds[2],
        "filled": full.usage.prompt_tokens + full.usage.completion_tokens,
        "planned GB": planned / 1e9,
        "reported GB": used / 1e9,
        "plan off by": planned / used - 1 if used > 0 else None,
        "left MB": left / 1e6,
        "decode tok/s": speed,
        **against(NAME, case, 0, seconds[2]),
    }


async def stages(engine: LocalEngine, started: float) -> None:
    """Print when each stage of a load began."""
    seen, last = -1, ""
    while True:
        seen = await engine.changed.wait(seen)
        stage = engine.state.stage.partition(" (")[0]
        if stage != last:
            print(f"  {time.monotonic() - started:6.2f} s  {stage or engine.state.phase}")
            last = stage


async def run(options: argparse.Namespace) -> Row:
    """All kinds; returns what the JSON object holds."""
    roof = measured_roof(options.device)
    print(roof.words(), flush=True)
    report = Report(roof)
    cases = cases_of(options, roof)
    for case in cases:
        report.add(NAME, [await measure_load(case)])
    return report.finish(NAME, ABOUT, all(case.usual for case in cases))


def main() -> None:
    asyncio.run(run(make_parser(__doc__, []).parse_args()))


if __name__ == "__main__":
    main()
