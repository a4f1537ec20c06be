"""A run from its file to its LoRA."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from modules.loader.adapters import check_adapter
from modules.training.control import Save, Stop, StopAtLoss, send
from modules.training.events import Evaluated, Sampled, Saved, Scored, Started, Step
from tests.training.trainer.runs import Place


def test_a_run_learns_its_rows_and_leaves_a_lora(place: Place) -> None:
    steps = place.steps(epochs=6)
    assert steps[-1].loss < steps[0].loss / 2
    assert place.finished().adapter == "made"
    check = check_adapter(place.root / "loras" / "made", place.root / "models" / "tiny")
    assert (check.kind, check.rank, check.warning) == ("LoRA", 4, "")


def test_plain_peft_loads_what_a_run_leaves(place: Place) -> None:
    place.steps()
    base = AutoModelForCausalLM.from_pretrained(place.root / "models" / "tiny")
    ids = torch.arange(1, 9)[None]
    before = base(ids).logits
    after = PeftModel.from_pretrained(base, str(place.root / "loras" / "made"))(ids).logits
    assert not torch.allclose(before, after, atol=1e-3)


def test_every_token_that_is_computed_is_told(place: Place) -> None:
    place.steps(batching="padded", micro_batch_size=4)
    (started,) = place.told(Started)
    assert started.tokens < started.computed
    assert sum(step.tokens for step in place.told(Step)) == 3 * started.tokens


def test_samples_are_answered_before_the_first_step_and_at_every_checkpoint(place: Place) -> None:
    place.steps(sample_prompts=["Who?"], sample_tokens=4, max_steps=4, save_steps=2)
    assert [sample.step for sample in place.told(Sampled)] == [0, 2, 4]


def test_held_out_prompts_are_scored_before_and_after(place: Place, capsys: object) -> None:
    (place.root / "held.jsonl").write_text(
        json.dumps({"prompt": "What is 3?", "pattern": "."})
        + "\n"
        + json.dumps({"prompt": "What is 4?", "pattern": r"\A(?!)"})
    )
    place.steps(held_out="held.jsonl", sample_tokens=4, max_steps=1)
    assert [(s.step, s.right, s.of) for s in place.told(Scored)] == [(0, 1, 2), (1, 1, 2)]
    out = capsys.readouterr().out  # type: ignore[attr-defined]
    assert out.splitlines()[-1] == "held-out score: 50 % -> 50 %"


def test_a_lora_of_that_name_is_left_alone(place: Place) -> None:
    theirs = place.root / "loras" / "made"
    theirs.mkdir(parents=True)
    (theirs / "adapter_config.json").write_text("mine")
    place.steps(max_steps=1)
    assert place.finished().adapter == "made-2"
    assert (theirs / "adapter_config.json").read_text() == "mine"


def test_the_manifest_says_what_went_in(place: Place) -> None:
    place.steps(max_steps=1)
    manifest = place.json("runs/run/manifest.json")
    assert manifest["state"] == "done"
    assert manifest["data"][0]["rows"] == 24
    assert len(manifest["base_sha256"]) == len(manifest["data"][0]["sha256"]) == 64
    assert manifest["config"]["lora_r"] == 4
    assert {"torch", "peft"} <= manifest["versions"].keys()
    assert manifest["curves"]["loss"] == place.told(Step)[-1].loss


def test_a_lora_that_goes_on_keeps_its_rank_and_names_its_parents(place: Place) -> None:
    first = place.steps("first", name="parent", lora_r=6, target_modules=["q and v"], epochs=4)
    second = place.steps("second", continue_from="parent", lora_r=2)
    # The same rows come first, and are known already.
    assert second[0].loss < 0.95 * first[0].loss
    check = check_adapter(place.root / "loras" / "made")
    assert (check.rank, check.target_modules) == (6, ("q_proj", "v_proj"))
    (parent,) = place.json("loras/made/lantern.json")["ancestry"]
    assert (parent["adapter"], parent["run"], parent["step"]) == ("parent", "first", len(first))


def test_a_lora_over_other_weights_is_not_continued(place: Place) -> None:
    place.steps("first", name="parent", max_steps=1)
    about = place.root / "loras" / "parent" / "lantern.json"
    about.write_text(json.dumps({"base_sha256": "0" * 64}))
    assert place.run("second", continue_from="parent") == 1
    assert "other weights" in place.failure("second").message


def test_told_to_stop_a_run_ends_with_everything_saved(place: Place) -> None:
    place.folder().mkdir(parents=True)
    send(place.folder(), Stop())
    place.steps(epochs=10)
    assert (place.finished().reason, place.finished().step) == ("stopped", 1)
    assert [saved.step for saved in place.told(Saved)] == [1]
    assert (place.root / "loras" / "made" / "adapter_model.safetensors").is_file()


def test_told_to_save_a_run_saves_and_goes_on(place: Place) -> None:
    place.folder().mkdir(parents=True)
    send(place.folder(), Save())
    place.steps(max_steps=3)
    assert [(s.step, s.reason) for s in place.told(Saved)] == [(1, "asked for"), (3, "end")]


def test_the_loss_to_stop_at_can_be_given_in_mid_run(place: Place) -> None:
    place.folder().mkdir(parents=True)
    send(place.folder(), StopAtLoss(100))
    place.steps(epochs=10)
    assert (place.finished().reason, place.finished().step) == ("stop loss", 1)


def test_patience_ends_a_run_and_the_best_becomes_the_lora(place: Place) -> None:
    config = {"learning_rate": 0.3, "epochs": 40, "eval_steps": 2, "patience": 2, "seed": 4}
    place.steps(**config, eval_split=0.3, max_grad_norm=0)
    evaluated = place.told(Evaluated)
    best = [event for event in evaluated if event.best][-1]
    assert place.finished().reason == "patience"
    assert evaluated.index(best) == len(evaluated) - 3
    weights = Path("adapter_model.safetensors")
    checkpoint = place.folder() / "checkpoints" / f"step-{best.step:06d}" / weights
    assert (place.root / "loras" / "made" / weights).read_bytes() == checkpoint.read_bytes()
    assert place.json("runs/run/checkpoints/best.json") == {"step": best.step}


def test_old_checkpoints_are_deleted_but_for_the_best(place: Place) -> None:
    place.steps(epochs=4, save_steps=2, keep_checkpoints=2, eval_split=0.2, eval_steps=1000)
    kept = sorted(path.name for path in (place.folder() / "checkpoints").glob("step-*"))
    saved = [saved.folder.rpartition("/")[2] for saved in place.told(Saved)]
    assert len(saved) > 3
    assert kept == saved[-2:]


def test_a_fall_of_the_loss_is_saved(place: Place) -> None:
    place.steps(epochs=8, save_steps=1000, save_loss_drop=30)
    assert "the loss fell" in {saved.reason for saved in place.told(Saved)}


def test_a_sweep_runs_one_after_another(place: Place) -> None:
    arguments = place.arguments("sweep", lora_r=[2, 3], max_steps=1)
    from modules.training.run import main

    assert main(arguments) == 0
    names = sorted(path.name for path in (place.root / "loras").iterdir())
    assert names == ["made-lora_r-2", "made-lora_r-3"]
