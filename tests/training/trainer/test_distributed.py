"""Two processes learn what one does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modules.training.events import Evaluated, Saved, Started, Step
from modules.training.run import launcher
from tests.training.trainer.runs import Place

ROOT = Path(__file__).parents[3]


def together(place: Place, run: str, *flags: str, **config: Any) -> None:
    """A run by two processes, as a launcher starts them."""
    arguments = [*place.arguments(run, **config), *flags]
    command = [sys.executable, *launcher(2), "-m", "modules.training.run", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=250)


def test_two_processes_have_the_losses_of_one_at_the_same_global_batch(place: Place) -> None:
    config = {"micro_batch_size": 2, "max_steps": 5, "eval_split": 0.25, "eval_steps": 2}
    one = place.steps("one", gradient_accumulation_steps=2, **config)
    together(place, "two", **config)
    two = place.told(Step, "two")
    assert [s.loss for s in two] == pytest.approx([s.loss for s in one], rel=1e-6)
    assert [s.grad_norm for s in two] == pytest.approx([s.grad_norm for s in one], rel=1e-5)
    assert [s.tokens for s in two] == [s.tokens for s in one]
    evaluated = [[e.loss for e in place.told(Evaluated, run)] for run in ("one", "two")]
    assert evaluated[1] == pytest.approx(evaluated[0], rel=1e-6)
    assert place.told(Started, "two")[0].processes == 2


def test_a_run_of_two_goes_on_by_one(place: Place) -> None:
    config = {"micro_batch_size": 1, "save_steps": 2, "epochs": 1}
    whole = place.steps("one", gradient_accumulation_steps=2, **config)
    together(place, "two", **config, stop_at_loss=10.0)
    assert [saved.step for saved in place.told(Saved, "two")] == [1]
    assert place.run("two", "--resume", **config) == 0
    losses = list(place.losses("two").values())
    assert losses == pytest.approx([s.loss for s in whole], rel=1e-6)
