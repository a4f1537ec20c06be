"""How long a load takes, and what the plan said against what the machine reports.

    python benchmarks/loading.py MODEL [MODEL ...] [--quantize none 8bit 4bit] [--context 4096]

Each model is loaded three times by an engine worker, as the page does it: from nothing, again,
and into a worker that was prepared, as one is when somebody looks at the Model tab. Then one
request fills the context, and the worker's memory is read: from the driver for a card, from
the kernel for the processor (anonymous memory, so that mapped files do not count). After the
unload it is read once more. Prints rows for benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.engine.local import LocalEngine
from modules.engine.params import SamplingParams
from modules.engine.protocol import Finished, GenerateRequest, LoadModel
from modules.loader.inspect import inspect_checkpoint
from modules.loader.machine import this_machine
from modules.loader.options import LoadOptions
from modules.loader.plan import make_plan


def card_used() -> int:
    """Bytes in use on the first card, by everybody."""
    import pynvml

    pynvml.nvmlInit()
    return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).used)


def processor_used(pid: int | None) -> int:
    """Bytes of anonymous memory of a process; 0 for none."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0


async def ask(engine: LocalEngine, tokens: int) -> float:
    """Let one request use so many tokens of context; the tokens a second of its decode."""
    params = SamplingParams(max_new_tokens=64, temperature=0, ban_eos_token=True)
    # The tokenizer of random_checkpoint.py makes a token of every byte; a real one makes fewer.
    text = "The quick brown fox jumps over the lazy dog. " * (tokens // 8)
    count = (await engine.count_tokens([text]))[0]
    text = text[: int(len(text) * (tokens - 80) / max(count, tokens - 80))]
    async for event in engine.generate(GenerateRequest(f"ask-{tokens}", text, params)):
        if isinstance(event, Finished):
            return event.usage.tokens_per_s
    return 0.0


async def measure(folder: Path, quantize: str, context: int) -> str:
    options = LoadOptions(quantize=quantize, context_length=context)  # type: ignore[arg-type]
    machine = this_machine(Path())
    plan = make_plan(inspect_checkpoint(folder, options), options, machine)
    card = bool(machine.cards)
    before = card_used() if card else 0
    engine = LocalEngine()
    command = LoadModel(str(folder), options, plan.placement)
    seconds = []
    for prepared in (False, False, True):
        if prepared:
            engine.prepare()
            await asyncio.sleep(12)
        started = time.monotonic()
        following = asyncio.create_task(stages(engine, started))
        await engine.load(command)
        seconds.append(time.monotonic() - started)
        following.cancel()
    await ask(engine, context)
    used = card_used() - before if card else processor_used(engine.pid)
    speed = await ask(engine, 512)
    await engine.close()
    left = card_used() - before if card else processor_used(engine.pid)
    planned = next(d.used for d in plan.devices if card == d.device.startswith("cuda"))
    times = " | ".join(f"{taken:.2f}" for taken in seconds)
    return (
        f"| {folder.name} | {plan.weights} | {times} "
        f"| {planned / 1e9:.3f} | {used / 1e9:.3f} | {planned / used - 1:+.1%} "
        f"| {left / 1e6:.0f} MB | {speed:.0f} |"
    )


async def stages(engine: LocalEngine, started: float) -> None:
    """Print when each stage of a load began."""
    seen, last = -1, ""
    while True:
        seen = await engine.changed.wait(seen)
        stage = engine.state.stage.partition(" (")[0]
        if stage != last:
            print(f"  {time.monotonic() - started:6.2f} s  {stage or engine.state.phase}")
            last = stage


async def run(options: argparse.Namespace) -> None:
    rows = []
    for folder in options.models:
        for quantize in options.quantize:
            print(f"{folder.name}, quantize={quantize}", flush=True)
            rows.append(await measure(folder, quantize, options.context))
            print(rows[-1], flush=True)
    heads = (
        "model, loaded as, first load s, again s, prepared s, planned GB, reported GB, plan off by"
    )
    columns = [*heads.split(", "), "left after unload", "decode tok/s"]
    print(f"\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    print("\n".join(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--quantize", nargs="+", default=["none"])
    parser.add_argument("--context", type=int, default=4096)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
