"""What preparing data for a LoRA costs: `python -m benchmarks.training_data [--base DIR]`.

Rows of Alpaca's length are written, read, rendered by the model's chat template, tokenized and
masked. The last line is one JSON object; times are of the processor, since a busy machine
stretches the others.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from modules.chat.messages import Message
from modules.chat.sandbox import Program
from modules.chat.template import render
from modules.loader.starter import STARTER
from modules.training.config import DatasetSource, TrainingConfig
from modules.training.dataset import DataFolders, prepare
from modules.training.tokenizer import FileTokenizer

ROOT = Path(__file__).resolve().parents[1]
TEXT = (
    "the of to and in is it you that he was for on are with as his they be at one have this from "
    "or had by hot but some what there we can out other were all your when up use word how said "
    "an each she which do their time if will way about many then them would write like so these"
)
_RENDERED = 300


def write_rows(file: Path, count: int) -> None:
    """Alpaca rows: 15 words asked, 10 more in every second row, some 60 answered."""
    chance, known = random.Random(0), TEXT.split()

    def words(number: int) -> str:
        return " ".join(chance.choices(known, k=number))

    with file.open("w") as lines:
        for i in range(count):
            row = {
                "instruction": words(15),
                "input": words(10) if i % 2 else "",
                "output": words(3 + int(chance.expovariate(1 / 60))),
            }
            lines.write(json.dumps(row) + "\n")


def seconds_of(work: Callable[[], object], times: int = 1) -> float:
    start = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - start) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--base", type=Path, default=ROOT / "models" / STARTER.name)
    flags = parser.parse_args()
    tokenizer = FileTokenizer(flags.base)
    chat = [Message("user", "What is it? " * 5), Message("assistant", "It is this. " * 20)]
    template, special = tokenizer.chat_template or "", tokenizer.special_tokens
    program = Program(template)
    anew = seconds_of(lambda: render(template, chat, special_tokens=special), _RENDERED)
    again = seconds_of(lambda: render(program, chat, special_tokens=special), _RENDERED)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder / "rows.jsonl", flags.rows)
        config = TrainingConfig(datasets=(DatasetSource("rows.jsonl"),))
        before, wall = time.process_time(), time.monotonic()
        prepared = prepare(config, flags.base, DataFolders(None, folder, ROOT))
        spent, wall = time.process_time() - before, time.monotonic() - wall
    result = {
        "rows": flags.rows,
        "tokens": prepared.real_tokens,
        "processor_s": round(spent, 1),
        "wall_s": round(wall, 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "render_us": round(anew * 1e6),
        "render_again_us": round(again * 1e6),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
