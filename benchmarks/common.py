"""What all benchmarks of the engine share: options, checkpoints, a loaded engine, the report.

A topic measures rows on a loaded model (`Topic.measure`). `run` measures the roof, writes the
random checkpoints that are needed, loads each kind of weights once, checks what it computes, and
runs the topics on it. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.checks import Check, check_replies
from benchmarks.peers import MEASURED, best_peer, goal_of, peer_lines, ratio
from benchmarks.replies import Asker, greedy
from benchmarks.roof import ROOT, Roof, Shape, measured_roof
from modules.engine.local import LocalEngine
from modules.engine.protocol import LoadModel, ModelInfo
from modules.errors import LanternError
from modules.loader.inspect import inspect_checkpoint
from modules.loader.machine import this_machine
from modules.loader.options import LoadOptions
from modules.loader.plan import Plan, make_plan

__all__ = [
    "Bench",
    "Case",
    "Report",
    "Row",
    "Topic",
    "against",
    "cases_of",
    "main_of",
    "make_parser",
    "memory_used",
    "run",
    "table",
]

Row = dict[str, Any]

KINDS = {
    "gptq": ("gptq", "none"),
    "8bit": ("float16", "8bit"),
    "4bit": ("float16", "4bit"),
    "float16": ("float16", "none"),
    "own": ("", "none"),
}
"""For each kind of weights, the checkpoint that is written for it, and how that is loaded."""

_ITEM_SIZE = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of weights: where its checkpoint is, and how it is loaded."""

    kind: str
    folder: Path
    load: LoadOptions
    roof: Roof
    random: bool
    """Whether random_checkpoint.py wrote the checkpoint."""
    usual: bool
    """Whether it has the shape that goals and peers' figures are for."""

    def plan(self) -> Plan:
        """How the page would load it. Raises SystemExit where it does not fit."""
        plan = make_plan(
            inspect_checkpoint(self.folder, self.load), self.load, this_machine(Path())
        )
        if not plan.fits:
            raise SystemExit(f"{self.folder}: {plan.message} {plan.remedy}")
        return plan

    def command(self) -> LoadModel:
        """What the engine gets to load it, as the page has it."""
        plan = self.plan()
        cache = plan.cache_tokens
        return LoadModel(str(self.folder), plan.options, plan.placement, cache_tokens=cache)


@dataclass(frozen=True, slots=True)
class Bench:
    """A case that is loaded, and a client of it."""

    case: Case
    info: ModelInfo
    asker: Asker
    shape: Shape

    @property
    def roof(self) -> Roof:
        """That of this run."""
        return self.case.roof

    def room_for(self, tokens: int) -> bool:
        """Whether a request of so many tokens fits into the context; says so if not."""
        fits = tokens <= self.info.context_length
        if not fits:
            print(f"  left out: {tokens} tokens are more than the context", flush=True)
        return fits


@dataclass(frozen=True, slots=True)
class Topic:
    """A benchmark: its name, what it adds to the options, and how it measures a loaded model."""

    name: str
    about: str
    add_options: Callable[[argparse.ArgumentParser], None]
    measure: Callable[[Bench, argparse.Namespace], Awaitable[list[Row]]]


@dataclass(slots=True)
class Report:
    """What is measured so far."""

    roof: Roof
    rows: dict[str, list[Row]] = field(default_factory=dict)
    checks: dict[str, Check] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, topic: str, rows: list[Row]) -> None:
        """Take rows, and print them, so that nothing is lost if the run is cut off."""
        self.rows.setdefault(topic, []).extend(rows)
        for row in rows:
            there = {name: shown(value) for name, value in row.items() if value is not None}
            words = ", ".join(f"{name} {value}" for name, value in there.items())
            print(f"  {topic}: {words}", flush=True)

    def note(self, kind: str, check: Check) -> None:
        """Take a check. One that failed keeps no timing away; it is told, and in the status."""
        self.checks[kind] = check
        print(f"{kind}: {check.words()}", flush=True)

    def fail(self, failure: str) -> None:
        """Take what could not be measured."""
        self.failures.append(failure)
        print(f"FAILED {failure}", flush=True)

    def finish(self, topic: str, about: str, stored: bool) -> Row:
        """Print the table of a topic and its peers' figures; returns what its JSON holds."""
        print(f"\n{topic}: {about}\n{self.roof.words()}\n")
        print(table(self.rows.get(topic, [])))
        if stored:
            print("\n".join(["", *peer_lines(topic)]))
        figures = figures_of(topic, self.roof, self.rows.get(topic, []))
        figures["checks"] = {kind: asdict(check) for kind, check in self.checks.items()}
        figures["failures"] = self.failures
        figures["peers"] = f"stored figures, measured {MEASURED}" if stored else ""
        print(json.dumps(figures), flush=True)
        return figures


def figures_of(topic: str, roof: Roof, rows: list[Row]) -> Row:
    """The head of a topic's JSON object, and its rows."""
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    rounded = [{name: short(value) for name, value in row.items()} for row in rows]
    head = {"benchmark": topic, "date": today, "device": roof.device}
    return {**head, "roof": asdict(roof), "rows": rounded}


def short(value: Any) -> Any:
    """Five digits of a figure; anything else as it is."""
    return float(f"{value:.5g}") if isinstance(value, float) else value


def make_parser(about: str, topics: Sequence[Topic]) -> argparse.ArgumentParser:
    """The options of all benchmarks, and those of `topics`."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, help="a checkpoint to measure, in the place of random ones")
    add("--kinds", nargs="+", choices=tuple(KINDS), help="kinds of weights (default: gptq)")
    add("--size", choices=("7b", "small", "tiny"), default="7b", help="shape of random weights")
    default = Path(tempfile.gettempdir()) / "lantern-benchmarks"
    add("--dir", type=Path, default=default, help="where random checkpoints are kept")
    add("--device", choices=("auto", "cpu"), default="auto")
    add("--cache-type", choices=("16-bit", "8-bit"), default="16-bit", help="of the KV cache")
    add("--cache-tokens", type=int, default=0, help="it has room for; 0: as planned")
    add("--context-length", type=int, default=0, help="to plan for; 0: the model's own")
    add("--repeats", type=int, default=3, help="of each measurement, whose median counts")
    add("--unchecked", action="store_true", help="time it without a check of the output")
    for topic in topics:
        topic.add_options(parser)
    return parser


def cases_of(options: argparse.Namespace, roof: Roof) -> list[Case]:
    """What to load, one by one; random checkpoints are written where they are not yet."""
    kinds = options.kinds or (["own"] if options.model else ["gptq"])
    cases = []
    for kind in kinds:
        written, quantize = KINDS[kind]
        if not (options.model or written):
            raise SystemExit("--kinds own is for --model.")
        folder = options.model or random_checkpoint(options.dir, written, options.size)
        load = LoadOptions(
            device=options.device,
            quantize=quantize,  # type: ignore[arg-type]
            context_length=options.context_length,
            cache_type=options.cache_type,
            cache_tokens=options.cache_tokens,
        )
        usual = options.size == "7b" and not options.model
        cases.append(Case(kind, folder, load, roof, not options.model, usual))
    return cases


def random_checkpoint(folder: Path, written: str, size: str) -> Path:
    """A random checkpoint, written by a process of its own, as that may use the card."""
    made = folder / f"{size}-{written}"
    if not (made / "tokenizer_config.json").is_file():
        started = time.perf_counter()
        script = str(ROOT / "benchmarks" / "random_checkpoint.py")
        arguments = [str(made), "--kind", written, "--size", size]
        done = subprocess.run([sys.executable, script, *arguments], check=False)
        if done.returncode:
            raise SystemExit(f"{made} could not be written.")
        print(f"{made}: written in {time.perf_counter() - started:.1f} s", flush=True)
    return made


async def load(engine: LocalEngine, case: Case) -> Bench:
    """Load a case, in the place of another. Raises LanternError."""
    started = time.perf_counter()
    info = await engine.load(case.command())
    print(
        f"{info.name} as {case.kind}: loaded in {time.perf_counter() - started:.1f} s on "
        f"{info.device}, {info.dtype}, {info.memory / 1e9:.3f} GB", flush=True
    )  # fmt: skip
    shape = Shape.of(case.folder, case.load, _ITEM_SIZE[info.dtype])
    return Bench(case, info, Asker(engine), shape)


async def check_stand_in(engine: LocalEngine, case: Case, folder: Path) -> Check:
    """Check a small random checkpoint of the kind of `case`. Ends with nothing loaded."""
    small = random_checkpoint(folder, KINDS[case.kind][0], "small")
    stand_in = Case(case.kind, small, case.load, case.roof, random=True, usual=False)
    bench = await load(engine, stand_in)
    engine.prepare()  # the worker that the case is loaded in imports its libraries meanwhile
    check = await check_replies(bench.asker, small, case.kind, bench.info.dtype)
    await engine.unload()
    return check


async def run(topics: Sequence[Topic], options: argparse.Namespace) -> tuple[list[Row], int]:
    """All topics on all kinds; returns the topics' JSON objects and the exit status."""
    roof = measured_roof(options.device)
    print(roof.words(), flush=True)
    report = Report(roof)
    cases = cases_of(options, roof)
    for case in cases:
        engine = LocalEngine()
        try:
            await run_case(report, engine, case, topics, options)
        except LanternError as error:
            report.fail(f"{case.kind}: {error.message}")
        finally:
            await engine.close()
    stored = all(case.usual for case in cases)
    results = [report.finish(topic.name, topic.about, stored) for topic in topics]
    passed = all(check.ok for check in report.checks.values())
    return results, int(bool(report.failures) or not passed)


async def run_case(
    report: Report,
    engine: LocalEngine,
    case: Case,
    topics: Sequence[Topic],
    options: argparse.Namespace,
) -> None:
    """Check and measure one kind; a topic that the engine refuses leaves the others their turn."""
    with_check = case.random and not options.unchecked
    if with_check and case.usual:
        report.note(case.kind, await check_stand_in(engine, case, options.dir))
    bench = await load(engine, case)
    if with_check and not case.usual:
        dtype = bench.info.dtype
        report.note(case.kind, await check_replies(bench.asker, case.folder, case.kind, dtype))
    # One short reply, so that nothing is met for the first time while it is timed.
    await bench.asker.ask(await bench.asker.fresh_prompt(100), greedy(20))
    for topic in topics:
        try:
            report.add(topic.name, await topic.measure(bench, options))
        except LanternError as error:
            report.fail(f"{topic.name}, {case.kind}: {error.message}")


def main_of(topic: Topic, about: str) -> None:
    """The command line of one topic."""
    options = make_parser(about, [topic]).parse_args()
    sys.exit(asyncio.run(run([topic], options))[1])


def memory_used(pid: int | None, card: bool) -> int:
    """Bytes in use on the first card, by everybody; or of anonymous memory of a process."""
    if card:
        import pynvml

        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).used)
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0


def shown(value: Any) -> str:
    """A figure for a table: three digits that say something, and nothing for None."""
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def table(rows: Sequence[Row]) -> str:
    """Markdown; a column that no row has a value for is left out."""
    if not rows:
        return "Nothing was measured."
    names = dict.fromkeys(name for row in rows for name, value in row.items() if value is not None)
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    lines += [f"| {' | '.join(shown(row.get(name)) for name in names)} |" for row in rows]
    return "\n".join(lines)


def against(benchmark: str, case: Case, variable: int, value: float) -> Row:
    """The goal and the best stored peer, None where there are none, and the ratios to them.

    A ratio of 1 or more is as good or better, also for times.
    """
    goal = goal_of(benchmark, case.kind, variable) if case.usual else None
    peer = best_peer(benchmark, case.kind, variable) if case.usual else None
    return {
        "goal": goal,
        "of goal": ratio(benchmark, value, goal) if goal else None,
        "best peer": peer,
        "of peer": ratio(benchmark, value, peer) if peer else None,
    }
