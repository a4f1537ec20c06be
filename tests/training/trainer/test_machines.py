"""Two launchers, as on two machines: the commands of docs/scale-out.md, on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from modules.training.events import Started, Step
from tests.peers import free_port
from tests.training.trainer.runs import Place

ROOT = Path(__file__).parents[3]


def machine(rank: int, port: int, arguments: list[str]) -> subprocess.Popen[bytes]:
    """The command of one of two machines, with one process on each."""
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"),
        *("--num_machines", "2", "--num_processes", "2", "--machine_rank", str(rank)),
        *("--main_process_ip", "127.0.0.1", "--main_process_port", str(port)),
        *("--mixed_precision", "no", "--dynamo_backend", "no"),
        *("-m", "modules.training.run", *arguments),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(command, cwd=ROOT, env=environment)


def test_two_machines_have_the_losses_of_one(place: Place) -> None:
    config = {"micro_batch_size": 2, "max_steps": 4}
    one = place.steps("one", gradient_accumulation_steps=2, **config)
    arguments, port = place.arguments("two", **config), free_port()
    assert "--run-dir" in arguments
    launchers = [machine(rank, port, arguments) for rank in (0, 1)]
    assert [launcher.wait(250) for launcher in launchers] == [0, 0]
    two = place.told(Step, "two")
    assert [s.loss for s in two] == pytest.approx([s.loss for s in one], rel=1e-6)
    assert place.told(Started, "two")[0].processes == 2
