"""A run without a model: it holds its lock, tells events, and does as it is told.

`python -m tests.training.fake_run FOLDER [--resume]`; the name of its config says how it goes:
"waits" goes on until it is told to stop, "fails" ends by an error that it tells, "dies" by one
that it does not, and "falls" is killed.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from modules.training.config_yaml import read_configs
from modules.training.control import ControlReader, Stop
from modules.training.events import EventLog, Failed, Finished, Started, Step
from modules.training.lock import hold


def main(folder: Path, resume: bool) -> int:
    name = read_configs(folder / "config.yaml")[0].name.partition("-")[0]
    with hold(folder):
        events, control = EventLog(folder / "events.jsonl"), ControlReader(folder)
        if name == "dies" and not resume:
            sys.stderr.write("Something that nobody expected.\n")
            return 3
        at = 2 if resume else 0
        events.write(started(at))
        for number in range(1, 4):
            events.write(step(at + number))
        if name == "falls" and not resume:
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "fails" and not resume:
            events.write(Failed(message="Memory ran out.", remedy="Take a smaller micro batch."))
            return 1
        reason = "done"
        while name == "waits" and reason == "done":
            reason = "stopped" if Stop() in control.read() else "done"
            time.sleep(0.01)
        events.write(Finished(step=at + 3, reason=reason, adapter=name))
    return 0


def started(resumed_at: int = 0) -> Started:
    return Started(
        total_steps=10,
        rows=4,
        tokens=100,
        computed=120,
        parameters=64,
        how="float32",
        micro_batch_size=1,
        resumed_at=resumed_at,
    )


def step(number: int, loss: float | None = None) -> Step:
    return Step(
        step=number,
        epoch=number / 10,
        loss=1 / number if loss is None else loss,
        learning_rate=1e-4,
        grad_norm=1.0,
        tokens=50,
        seconds=0.5,
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), "--resume" in sys.argv))
