"""A run that is killed goes on as if it had not been."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from modules.training.events import Step
from tests.training.trainer.runs import Place

ROOT = Path(__file__).parents[3]
LONG = {"max_steps": 12, "save_steps": 3, "lora_dropout": 0.1, "neftune_noise_alpha": 5.0}


def start(place: Place, *flags: str, **config: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "modules.training.run", *place.arguments(**config), *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)


def wait_for_step(place: Place, process: subprocess.Popen[bytes], step: int) -> None:
    while process.poll() is None and not any(s.step >= step for s in place.told(Step)):
        time.sleep(0.002)


def test_a_run_that_is_killed_and_resumed_has_the_same_losses_bit_for_bit(place: Place) -> None:
    place.steps("whole", **LONG)
    for kill_at in (2, 5, 10):
        process = start(place, *(["--resume"] if kill_at > 2 else []), **LONG)
        wait_for_step(place, process, kill_at)
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it was killed, and did not end before"
    assert place.run("run", "--resume", **LONG) == 0
    assert place.losses("run") == place.losses("whole")
    last = "checkpoints/step-000012/adapter_model.safetensors"
    assert (place.folder() / last).read_bytes() == (place.folder("whole") / last).read_bytes()


@pytest.mark.parametrize(
    "config",
    [
        {"optimizer": "adafactor"},
        {"optimizer": "sgd", "lr_scheduler": "polynomial"},
        {"use_dora": True, "loraplus_lr_ratio": 8},
        {"init_lora_weights": "pissa", "batching": "sorted"},
        {"train_embeddings": True, "train_head": True},
        {"eval_split": 0.2, "eval_steps": 2, "patience": 50, "save_loss_drop": 5},
    ],
)
def test_whatever_the_options_a_resumed_run_has_the_same_losses(
    place: Place, config: dict[str, Any]
) -> None:
    standard: dict[str, Any] = {"save_steps": 4, "max_steps": 8, **config}
    place.steps("whole", **standard)
    place.steps("run", **{**standard, "stop_at_loss": 10.0})  # stops after the first step
    assert place.run("run", "--resume", **standard) == 0
    losses = place.losses("whole")
    assert {s: loss for s, loss in place.losses("run").items() if s > 1} == {
        s: loss for s, loss in losses.items() if s > 1
    }
    assert len(losses) == 8


def test_ctrl_c_ends_a_run_with_everything_saved(place: Place) -> None:
    process = start(place, epochs=100)
    wait_for_step(place, process, 2)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 0
    assert place.finished().reason == "stopped"
    saved = place.json("runs/run/checkpoints/latest.json")["step"]
    assert saved == place.told(Step)[-1].step


def test_a_run_that_is_there_is_not_overwritten(place: Place) -> None:
    place.steps(max_steps=1)
    assert place.run("run", max_steps=1) == 2
    assert place.run("run", "--resume", max_steps=2) == 0


def test_a_resume_with_another_rank_is_refused(place: Place) -> None:
    place.steps(max_steps=1)
    assert place.run("run", "--resume", max_steps=2, lora_r=8) == 1
    assert "other settings" in place.failure().message
