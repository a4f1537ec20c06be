"""Whole training runs, as the Training tab starts them: speed, memory, and several cards.

    python -m benchmarks.training_run [--size 7b|small|tiny] [--steps 16] [--only NAME ...]

Each run is `python -m modules.training.run` over a checkpoint of random weights, with a LoRA of
rank 16 on all seven projections and packed rows of Alpaca-like length (`drawn_lengths`). Figures
are those that the run itself tells; the speed is the median over the steps after the third, each
from its first batch to the optimizer's step. With two cards or more, the same is run on one, on
two with twice the tokens a step, on two with the tokens of one (whose losses must be those of
one card), and with the base spread over both. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import yaml

from benchmarks.common import Row, shown, table
from benchmarks.random_checkpoint import SIZES, write
from benchmarks.training_model import drawn_lengths

ROOT = Path(__file__).resolve().parents[1]
LETTERS = "etaoin shrdlu "
_AROUND = 68
"""Tokens that ChatML's marks make of single bytes around a question of six."""
_WARM = 3
_OFF, _PLAIN_OFF = 0.01, 0.1
"""By how much losses on two cards may differ from those on one, relative, in bfloat16, and where
one of them computes on the plain path, which rounds away much of what a young LoRA makes."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run: its name, its kind of base, and what its config says besides.

    `same_as` is the run whose losses it must have, and `twice` the one whose speed is half.
    """

    name: str
    base: str = "float16"
    config: dict[str, Any] = field(default_factory=dict)
    cards: int = 1
    same_as: str = ""
    beside: str = ""


RUNS = (
    Run("one card, 16-bit"),
    Run("one card, 8-bit AdamW", config={"optimizer": "adamw_8bit"}),
    Run("one card, fp16", config={"precision": "fp16"}),
    Run("one card, GPTQ dequantized once", "gptq"),
    Run("one card, GPTQ by layer", "gptq", {"dequantize": "by layer"}),
    Run("one card, a base in 4 bits", config={"load_in": "4bit", "dequantize": "by layer"}),
    Run("two cards, twice the tokens", cards=2, beside="one card, 16-bit"),
    Run("two cards, the same tokens", config={"micro_batch_size": 0.5}, cards=2,
        same_as="one card, 16-bit"),
    Run("two cards, base spread", config={"micro_batch_size": 0.5, "sharding": "on"}, cards=2,
        same_as="one card, 16-bit"),
)  # fmt: skip


def write_rows(file: Path, count: int) -> None:
    """Rows whose replies make the drawn lengths, in letters whose frequencies can be learnt."""
    torch.manual_seed(0)
    with file.open("w") as lines:
        for number, length in enumerate(drawn_lengths(count)):
            drawn = torch.randint(len(LETTERS), (max(2, length - _AROUND),)).tolist()
            text = "".join(LETTERS[i] for i in drawn)
            turns = [
                {"role": "user", "content": f"{number:06d}"},
                {"role": "assistant", "content": text},
            ]
            lines.write(json.dumps({"messages": turns}) + "\n")


def config_of(run: Run, options: argparse.Namespace, packs: int) -> dict[str, Any]:
    """The config of a run: `packs` rows of 1,024 tokens at once, on each card."""
    config = {
        "name": run.name.replace(" ", "-").replace(",", ""),
        "base": run.base,
        "datasets": ["rows.jsonl"],
        "template": "chatml",
        "learn": "everything",
        "cutoff_len": 1024,
        "micro_batch_size": packs,
        "max_steps": options.steps,
        "lora_r": 16,
        "gradient_checkpointing": "automatic",
        "processes": run.cards,
        "save_steps": 100_000,
        **run.config,
    }
    if run.config.get("micro_batch_size") == 0.5:
        config["micro_batch_size"] = max(1, packs // 2)
    return config


def events_of(folder: Path) -> list[dict[str, Any]]:
    file = folder / "events.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def measure(run: Run, place: Path, options: argparse.Namespace) -> Row:
    """Run it, and read what it told."""
    packs = options.packs
    config = config_of(run, options, packs)
    file = place / f"{config['name']}.yaml"
    file.write_text(yaml.safe_dump(config))
    folder = place / "runs" / config["name"]
    command = [sys.executable, "-m", "modules.training.run", str(file), "--run-dir", str(folder)]
    command += ["--model-dir", str(place / "models"), "--lora-dir", str(place / "loras")]
    command += ["--user-data-dir", str(place)]
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ)
    seconds = time.monotonic() - began
    events = events_of(folder)
    steps = [event for event in events if event["event"] == "step"]
    started = next((event for event in events if event["event"] == "started"), {})
    if done.returncode or len(steps) <= _WARM:
        print(done.stdout[-1500:], done.stderr[-3000:], flush=True)
        failed = next((e["message"] for e in events if e["event"] == "failed"), "no events")
        return {"what": run.name, "real tok/s": None, "how": failed}
    speeds = [step["tokens"] / step["seconds"] for step in steps[_WARM:]]
    return {
        "what": run.name,
        "real tok/s": statistics.median(speeds),
        "tokens a step": round(statistics.mean(step["tokens"] for step in steps)),
        "loss, first": steps[0]["loss"],
        "loss, last": steps[-1]["loss"],
        "GB": max(step["memory_bytes"] for step in steps) / 1e9,
        "planned GB": started["predicted_bytes"] / 1e9,
        "whole run s": seconds,
        "how": started["how"],
        "warned": "; ".join(e["text"] for e in events if e["event"] == "warned"),
        "losses": [round(step["loss"], 4) for step in steps],
    }


def apart(found: list[float], expected: list[float]) -> float:
    """The largest difference of two courses of losses, relative."""
    return max(abs(a - b) / b for a, b in zip(found, expected, strict=True))


def compare(rows: dict[str, Row]) -> list[str]:
    """What the runs on two cards are beside those on one, in words; a wrong one begins with !."""
    told = []
    for run in RUNS:
        row, one = rows.get(run.name), rows.get(run.same_as or run.beside)
        if not row or not one or row["real tok/s"] is None or one["real tok/s"] is None:
            continue
        words = f"{run.name}: {row['real tok/s'] / one['real tok/s']:.2f} times {one['what']}"
        if run.same_as:
            off = apart(row["losses"], one["losses"])
            words += f", losses within {off:.2%}"
            most = _PLAIN_OFF if "spread" in row["how"] else _OFF
            words = words if off < most else "! " + words
        told.append(words)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--size", choices=tuple(SIZES), default="7b", help="shape of the model")
    add("--steps", type=int, default=16)
    add("--packs", type=int, default=8, help="of 1,024 tokens each, at once on each card")
    add("--only", nargs="+", default=[], help="runs whose names begin with one of these")
    add("--place", type=Path, help="folder for checkpoints and runs, which stay there")
    options = parser.parse_args()
    cards = torch.cuda.device_count()
    wanted = [
        run
        for run in RUNS
        if run.cards <= max(1, cards)
        and (not options.only or run.name.startswith(tuple(options.only)))
    ]
    with tempfile.TemporaryDirectory() as temporary:
        place = options.place or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        write_rows(place / "rows.jsonl", max(200, 16 * options.packs * (options.steps + 2)))
        rows: dict[str, Row] = {}
        for run in wanted:
            checkpoint = place / "models" / run.base
            if not (checkpoint / "config.json").exists():
                write(checkpoint, run.base, options.size)
            row = rows[run.name] = measure(run, place, options)
            print(", ".join(f"{k} {shown(v)}" for k, v in row.items() if v), flush=True)
    told = compare(rows)
    plain = [{k: v for k, v in row.items() if k not in ("losses", "warned")} for row in
             rows.values()]  # fmt: skip
    print(f"\n{table(plain)}\n" + "\n".join(told))
    print(json.dumps({"benchmark": "training_run", "rows": list(rows.values()), "told": told}))
    broken = any(row["real tok/s"] is None for row in rows.values())
    sys.exit(int(broken or any(words.startswith("!") for words in told)))


if __name__ == "__main__":
    main()
