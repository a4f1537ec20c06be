"""What the plan predicts, against what a real run takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from modules.loader.checkpoint import check_checkpoint
from modules.settings import ROOT
from modules.training.config_yaml import from_mapping
from modules.training.memory import make_training_plan
from modules.training.progress import Told
from tests.loader.shapes import machine
from tests.starter import provide_starter


@pytest.mark.starter
def test_the_plan_of_the_starter_on_the_processor_is_right_within_a_tenth(tmp_path: Path) -> None:
    starter = provide_starter()
    config = {
        "name": "measured",
        "base": starter.name,
        "datasets": [str(ROOT / "training" / "examples" / "teach-lantern.jsonl")],
        "cutoff_len": 256,
        "micro_batch_size": 1,
        "gradient_checkpointing": "off",
        "max_steps": 5,
    }
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    folders = ["--model-dir", starter.parent, "--lora-dir", tmp_path, "--user-data-dir", tmp_path]
    command = [sys.executable, "-m", "modules.training.run", file, "--run-dir", tmp_path, *folders]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    told = Told(tmp_path / "events.jsonl")
    told.read()
    plan = make_training_plan(from_mapping(config), check_checkpoint(starter), machine(ram=16))
    measured = told.progress().memory_bytes
    assert abs(plan.predicted_bytes / measured - 1) < 0.1
