"""What goes wrong in a run becomes a sentence, and what was saved stays whole."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from modules.training.events import Evaluated, Finished, Sampled, Saved
from modules.training.trainer import checkpoint
from modules.training.trainer.batches import Batch
from modules.training.trainer.loop import Loop
from modules.training.trainer.objective import Objective
from modules.training.trainer.samples import Responder
from tests.training.trainer.runs import Place


def short_of_memory(*_: Any, **__: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_a_full_disk_at_a_checkpoint_leaves_the_one_before(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file = checkpoint.save_file
    written: list[Path] = []

    def full(tensors: Any, path: Path, *rest: Any) -> None:
        written.append(path)
        if len(written) > 3:  # two files a checkpoint
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(tensors, path, *rest)

    monkeypatch.setattr(checkpoint, "save_file", full)
    assert place.run(save_steps=2, max_steps=6) == 1
    assert place.failure().message == (
        "The checkpoint could not be written: no space left on device."
    )
    assert "resume" in place.failure().remedy
    folder = place.folder() / "checkpoints"
    (folder / ".writing-by-one-that-was-killed").mkdir()
    assert sorted(path.name for path in folder.iterdir()) == [
        ".writing-by-one-that-was-killed",
        "latest.json",
        "step-000002",
    ]
    assert place.json("runs/run/checkpoints/latest.json") == {"step": 2}
    assert not place.told(Finished)
    monkeypatch.undo()
    assert place.run("run", "--resume", save_steps=2, max_steps=6) == 0
    assert not list(folder.glob(".writing-*"))


def test_a_loss_that_is_no_number_ends_the_run(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Objective.__call__
    steps: list[None] = []

    def diverging(self: Objective, batch: Batch) -> torch.Tensor:
        steps.append(None)
        return whole(self, batch) * (float("nan") if len(steps) == 3 else 1)

    monkeypatch.setattr(Objective, "__call__", diverging)
    assert place.run(save_steps=1) == 1
    assert place.failure().message == "The loss of step 3 is no number (nan)."
    assert place.json("runs/run/checkpoints/latest.json") == {"step": 2}
    assert place.json("runs/run/manifest.json")["state"] == "failed"


def test_memory_that_runs_out_at_the_first_step_halves_the_micro_batch(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = place.steps("expected", micro_batch_size=1, gradient_accumulation_steps=4)
    whole = Objective.__call__

    def small(self: Objective, batch: Batch) -> torch.Tensor:
        if batch.real > 64:
            short_of_memory()
        return whole(self, batch)

    monkeypatch.setattr(Objective, "__call__", small)
    steps = place.steps(micro_batch_size=4)
    assert [step.loss for step in steps] == pytest.approx([s.loss for s in expected], rel=1e-4)
    first, second = place.warnings()
    assert "the micro batch is 2 now" in first
    assert "the micro batch is 1 now" in second


def test_memory_that_never_suffices_is_said(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Objective, "__call__", short_of_memory)
    assert place.run(micro_batch_size=2) == 1
    assert "gradient checkpointing is on now" in place.warnings()[-1]
    assert place.failure().message == "Memory ran out at a micro batch of 1."


def test_memory_that_runs_out_beside_the_steps_costs_only_that(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Loop, "_evaluation_loss", short_of_memory)
    monkeypatch.setattr(Responder, "replies", short_of_memory)
    place.steps(eval_split=0.2, eval_steps=2, max_steps=2, sample_prompts=["Who?"])
    assert place.finished().reason == "done"
    assert not place.told(Evaluated)
    assert not place.told(Sampled)
    assert {"Memory ran out at the evaluation, which was left out."} < set(place.warnings())


def test_memory_that_runs_out_at_a_save_costs_that_checkpoint(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = checkpoint.Checkpoints.save

    def short_once(self: checkpoint.Checkpoints, step: int, *rest: Any, **about: Any) -> Path:
        return short_of_memory() if step == 2 else save(self, step, *rest, **about)

    monkeypatch.setattr(checkpoint.Checkpoints, "save", short_once)
    place.steps(save_steps=2, max_steps=4)
    assert [saved.step for saved in place.told(Saved)] == [4]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"datasets": []}, "There is no dataset to train on."),
        ({"base": "tony"}, "There is no model called tony in models."),
        ({"base": ""}, "There is no base model."),
        ({"target_modules": ["q_prog"]}, "The model has no module 'q_prog'."),
        ({"continue_from": "gone"}, "There is no LoRA called gone in loras/."),
        ({"optimizer": "adamw_8bit"}, "adamw_8bit needs bitsandbytes."),
        ({"report_to": "wandb"}, "report_to: wandb needs the package wandb."),
        ({"held_out": "rows.jsonl"}, "rows.jsonl, row 1 has no prompt or no pattern."),
    ],
)
def test_what_cannot_begin_is_said_in_a_sentence(
    place: Place, config: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("bitsandbytes", "wandb"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    assert place.run(**config) == 1
    assert place.failure().message.startswith(message.rstrip("."))
    assert place.failure().remedy


@pytest.mark.parametrize(
    "config", [{"lora_r": 0}, {"lora_rank": 8}, {"name": "../up"}, {"datasets": ["gone.jsonl"]}]
)
def test_a_bad_config_is_refused_before_anything_is_written(
    place: Place, config: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert place.run(**config) == 2
    assert not place.folder().exists()
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_bad_input_is_told_before_torch_is_there(place: Place) -> None:
    code = (
        "import sys; from modules.training.run import main; "
        "status = main(sys.argv[1:]); sys.exit(10 if 'torch' in sys.modules else status)"
    )
    (place.root / "rows.jsonl").write_text("no JSON")
    command = [sys.executable, "-c", code, *place.arguments()]
    assert subprocess.run(command, cwd=Path(__file__).parents[3], check=False).returncode == 1
    assert "rows.jsonl" in place.failure().message


def test_a_damaged_checkpoint_is_named(place: Place) -> None:
    place.steps(max_steps=1)
    state = place.folder() / "checkpoints" / "step-000001" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:100])
    assert place.run("run", "--resume", max_steps=2) == 1
    assert place.failure().message == "The checkpoint step-000001 is damaged."


def test_a_run_that_another_process_computes_is_left_alone(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from modules.training import lock

    monkeypatch.setattr(lock, "_PATIENCE_S", 0.0)
    place.folder().mkdir(parents=True)
    with lock.hold(place.folder()):
        assert place.run() == 1
    assert "another process" in capsys.readouterr().out


def test_a_pattern_that_is_no_expression_names_its_row(place: Place) -> None:
    (place.root / "held.jsonl").write_text(json.dumps({"prompt": "Who?", "pattern": "("}))
    assert place.run(held_out="held.jsonl") == 1
    assert place.failure().message.startswith("held.jsonl, row 1: the pattern")
