"""The process of a run that learns nothing: it writes the events and folders of one that does.

python tests/ui/staged_run.py FOLDER SECONDS_PER_STEP
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from modules.training import control, lock
from modules.training.config_yaml import read_configs
from modules.training.events import (
    Evaluated,
    EventLog,
    Finished,
    Sampled,
    Saved,
    Scored,
    Stage,
    Started,
    Step,
)
from modules.training.launch import EVENTS

PROMPTS = ("Who are you?", "What is the capital of France?")


def main(folder: Path, seconds: float) -> None:
    config = read_configs(folder / "config.yaml")[0]
    total = config.max_steps or 40
    with lock.hold(folder):
        log = EventLog(folder / EVENTS)
        log.write(Stage(text="Reading the base", fraction=0.5))
        time.sleep(seconds)
        log.write(
            Started(
                total_steps=total, rows=240, tokens=38_112, computed=38_400, parameters=4_884_480,
                how="float32", micro_batch_size=4, predicted_bytes=820_000_000,
            )
        )  # fmt: skip
        log.write(Scored(step=0, right=1, of=48))
        step, reason = learn(folder, log, total, seconds, config.stop_at_loss)
        save(folder, log, step, "the end")
        log.write(Scored(step=step, right=45, of=48))
        log.write(Finished(step=step, reason=reason, adapter=config.name or "lora"))
        log.close()


def learn(folder: Path, log: EventLog, total: int, seconds: float, stop: float) -> tuple[int, str]:
    told = control.ControlReader(folder)
    for prompt in PROMPTS:
        log.write(Sampled(step=0, prompt=prompt, reply="I am a helpful assistant."))
    for step in range(1, total + 1):
        time.sleep(seconds)
        loss = 2.4 * math.exp(-4 * step / total) + 0.3 + 0.15 * math.sin(step * 2.7)
        rate = 2e-4 * min(1, step / 5) * (0.5 + 0.5 * math.cos(math.pi * step / total))
        log.write(
            Step(
                step=step, epoch=3 * step / total, loss=loss, learning_rate=rate,
                grad_norm=1.2 * math.exp(-step / total) + 0.1 * math.cos(step),
                tokens=900, seconds=max(seconds, 0.01), memory_bytes=804_000_000,
            )
        )  # fmt: skip
        commands = told.read()
        if step % 10 == 0:
            log.write(Evaluated(step=step, loss=loss + 0.1, best=True))
        if step % 10 == 0 or control.Save() in commands:
            save(folder, log, step, "asked" if commands else "in turn")
        for command in commands:
            stop = command.loss if isinstance(command, control.StopAtLoss) else stop
        if control.Stop() in commands:
            return step, "stopped"
        if stop and loss <= stop:
            return step, "stop loss"
    return total, "done"


def save(folder: Path, log: EventLog, step: int, reason: str) -> None:
    place = folder / "checkpoints" / f"step-{step:06}"
    place.mkdir(parents=True, exist_ok=True)
    (place / "adapter_model.safetensors").write_bytes(b"\0" * 4096)
    for name in ("latest", "best"):
        (place.parent / f"{name}.json").write_text(json.dumps({"step": step}))
    log.write(Saved(step=step, folder=f"checkpoints/{place.name}", reason=reason))
    for prompt in PROMPTS:
        log.write(Sampled(step=step, prompt=prompt, reply=f"I am Lantern, a small light ({step})."))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
