"""What is shipped must teach: a shortened form of training/examples/teach-lantern.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from modules.training.events import EventReader, Scored
from modules.training.run import main
from tests.starter import provide_starter

EXAMPLES = Path(__file__).parents[3] / "training" / "examples"


@pytest.mark.starter
@pytest.mark.timeout(600)
def test_the_example_teaches_the_starter_its_form(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    starter = provide_starter()
    config = yaml.safe_load((EXAMPLES / "teach-lantern.yaml").read_text())
    held_out = (EXAMPLES / "teach-lantern-held-out.jsonl").read_text().splitlines()
    (tmp_path / "held-out.jsonl").write_text("\n".join(held_out[::8]))
    short = {"max_steps": 14, "held_out": "held-out.jsonl", "sample_prompts": [],
             "datasets": [str(EXAMPLES / "teach-lantern.jsonl")]}  # fmt: skip
    (tmp_path / "short.yaml").write_text(yaml.safe_dump({**config, **short}))
    folders = ["--model-dir", str(starter.parent), "--lora-dir", str(tmp_path / "loras")]
    run = ["--run-dir", str(tmp_path / "run"), "--user-data-dir", str(tmp_path)]
    assert main([str(tmp_path / "short.yaml"), *folders, *run]) == 0
    events = EventReader(tmp_path / "run" / "events.jsonl").read()
    before, after = (event.right for event in events if isinstance(event, Scored))
    assert before == 0
    assert after >= 3
    assert capsys.readouterr().out.splitlines()[-1].startswith("held-out score: 0 % -> ")
