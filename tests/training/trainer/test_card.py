"""Runs on a card."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modules.training.events import Started, Step
from tests.training.trainer.runs import Place

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA card"),
]


def test_a_card_learns_what_the_processor_does(place: Place) -> None:
    config = {"precision": "fp32", "max_steps": 4, "processes": 1, "micro_batch_size": 2}
    command = [sys.executable, "-m", "modules.training.run", *place.arguments("slow", **config)]
    without = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command, cwd=Path(__file__).parents[3], env=without, check=True, timeout=200)
    expected = [step.loss for step in place.told(Step, "slow")]
    assert [s.loss for s in place.steps("card", **config)] == pytest.approx(expected, rel=1e-3)


def test_a_run_in_bf16_goes_on_from_its_checkpoint(place: Place) -> None:
    config = {"max_steps": 6, "save_steps": 3, "processes": 1, "precision": "bf16"}
    whole = [step.loss for step in place.steps("whole", **config)]
    place.steps("run", **{**config, "max_steps": 3, "lr_scheduler": "constant"})
    assert place.told(Started, "run")[0].how.startswith("bfloat16")
    assert place.run("run", "--resume", **config) == 0
    assert len(place.losses("run")) == len(whole)


def test_a_run_with_8_bit_adamw_goes_on_from_its_checkpoint(place: Place) -> None:
    pytest.importorskip("bitsandbytes")
    # bitsandbytes keeps 8 bits of matrices with 4,096 numbers or more.
    config = {"optimizer": "adamw_8bit", "max_steps": 6, "save_steps": 3, "processes": 1,
              "precision": "fp32", "lora_r": 128}  # fmt: skip
    place.steps(**config)
    whole = place.losses()
    shutil.rmtree(place.folder() / "checkpoints" / "step-000006")
    assert place.run("run", "--resume", **config) == 0
    assert place.losses() == pytest.approx(whole, rel=1e-4)
