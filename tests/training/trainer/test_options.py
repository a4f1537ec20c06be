"""Every option of a config has an effect."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from modules.loader.adapters import AdapterCheck, check_adapter
from modules.training.config import TrainingConfig
from modules.training.events import Evaluated, Saved, Started
from modules.training.trainer.base import load_base
from modules.training.trainer.lora import add_lora
from modules.training.trainer.optimize import Optimization
from modules.training.trainer.report import open_tracker
from tests.training.trainer.runs import Place

CPU = torch.device("cpu")


def made(place: Place, name: str = "made") -> AdapterCheck:
    return check_adapter(place.root / "loras" / name, place.root / "models" / "tiny")


def rates(place: Place, **config: Any) -> list[float]:
    return [step.learning_rate for step in place.steps(max_steps=6, **config)]


@pytest.mark.parametrize(
    ("config", "kind"),
    [({}, "LoRA"), ({"use_rslora": True}, "rsLoRA"), ({"use_dora": True}, "DoRA")],
)
def test_the_kind_of_the_lora(place: Place, config: dict[str, Any], kind: str) -> None:
    place.steps(max_steps=1, lora_alpha=8, **config)
    layer = made(place).layers["model.layers.0.self_attn.q_proj"]
    assert made(place).kind == kind
    assert layer.scaling == (8 / 2 if config.get("use_rslora") else 8 / 4)


@pytest.mark.parametrize("targets", [["q and v"], ["mlp"], ["o_proj"]])
def test_the_modules_that_are_changed(place: Place, targets: list[str]) -> None:
    place.steps(max_steps=1, target_modules=targets)
    assert set(made(place).target_modules) == set(
        TrainingConfig(target_modules=tuple(targets)).targets
    )


def test_pissa_is_saved_as_a_plain_lora_with_the_logits_of_the_run(place: Place) -> None:
    """Over the base as it lies on the disk, not over the one that PiSSA has changed."""
    from peft import PeftModel

    plain = place.steps("plain", max_steps=3, name="plain")
    steps = place.steps(max_steps=3, init_lora_weights="pissa")
    assert steps[0].loss == pytest.approx(plain[0].loss, rel=1e-4), "it changes nothing at first"
    assert steps[1].loss != pytest.approx(plain[1].loss, rel=1e-4)
    assert (made(place).kind, made(place).rank) == ("LoRA", 8)
    base = AutoModelForCausalLM.from_pretrained(place.root / "models" / "tiny")
    model = PeftModel.from_pretrained(base, str(place.root / "loras" / "made"))
    again = place.steps("again", max_steps=1, continue_from="made", name="again")
    assert again[0].loss < 0.97 * plain[0].loss
    assert torch.isfinite(model(torch.arange(1, 9)[None]).logits).all()


def test_a_gaussian_start_is_another(place: Place) -> None:
    place.steps("one", name="one", max_steps=1)
    place.steps("two", name="two", max_steps=1, init_lora_weights="gaussian")
    a = [load_file(made(place, n).weights) for n in ("one", "two")]
    key = next(key for key in a[0] if "lora_A" in key)
    assert not torch.allclose(a[0][key], a[1][key], atol=0.02)


def test_embeddings_and_head_are_trained_whole(place: Place) -> None:
    place.steps(max_steps=2, train_embeddings=True, train_head=True)
    whole = {name for name, layer in made(place).layers.items() if not layer.rank}
    assert whole == {"model.embed_tokens", "lm_head"}
    base = load_file(place.root / "models" / "tiny" / "model.safetensors")
    tensors = load_file(made(place).weights)
    for name in ("embed_tokens", "lm_head"):
        (trained,) = (t for key, t in tensors.items() if name in key)
        assert not torch.equal(trained, base["model.embed_tokens.weight"])


def test_a_module_is_not_trained_twice(place: Place) -> None:
    assert place.run(target_modules=["q_proj", "embed_tokens"], train_embeddings=True) == 1
    assert "trained whole as well" in place.failure().message


@pytest.mark.parametrize(
    "config", [{"lora_dropout": 0.5}, {"neftune_noise_alpha": 20}, {"weight_decay": 0.9},
               {"max_grad_norm": 0.01}, {"loraplus_lr_ratio": 16}, {"lora_alpha": 64},
               {"seed": 7}, {"optimizer": "sgd"}, {"optimizer": "adafactor"}],
)  # fmt: skip
def test_what_changes_how_it_is_learnt(place: Place, config: dict[str, Any]) -> None:
    plain = place.steps("plain", max_steps=3, name="plain")
    other = place.steps(max_steps=3, **config)
    assert other[-1].loss != pytest.approx(plain[-1].loss, rel=1e-7)


@pytest.mark.parametrize(
    "name",
    ["linear", "constant", "constant_with_warmup", "cosine", "cosine_with_restarts",
     "polynomial", "inverse_sqrt"],
)  # fmt: skip
def test_schedules_warm_up_and_fall_by_their_names(place: Place, name: str) -> None:
    rate = rates(place, lr_scheduler=name, warmup_steps=2)
    if name == "constant":
        assert rate == [0.01] * 6
        return
    assert rate[:3] == pytest.approx([0, 0.005, 0.01])
    assert rate[-1] == 0.01 if name == "constant_with_warmup" else rate[-1] < 0.01


def test_warmup_can_be_a_share_of_all_steps(place: Place) -> None:
    assert rates(place, lr_scheduler="constant_with_warmup", warmup_ratio=0.5) == pytest.approx(
        [0, 0.01 / 3, 0.02 / 3, 0.01, 0.01, 0.01]
    )


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "sgd"])
def test_the_optimizer_gets_the_rates_of_a_and_b(tiny_base: Any, optimizer: str) -> None:
    config = TrainingConfig(
        lora_r=2, loraplus_lr_ratio=16, learning_rate=0.001, weight_decay=0.1, optimizer=optimizer
    )
    lora = add_lora(load_base(tiny_base, config, CPU, lambda text, fraction: None), config)
    made = Optimization(lora.named_parameters(), config, 10, torch.float32)
    kinds = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    assert isinstance(made._optimizer, kinds.get(optimizer, torch.optim.Optimizer))
    a, b = made._optimizer.param_groups
    assert (a["initial_lr"], b["initial_lr"]) == (0.001, 0.016)
    assert a["weight_decay"] == b["weight_decay"] == 0.1


@pytest.mark.parametrize(
    ("config", "saved"),
    [
        ({"save_steps": 2}, [2, 4, 5]),
        ({"micro_batch_size": 100, "epochs": 3, "max_steps": 0}, [1, 2, 3]),
        ({"micro_batch_size": 100, "epochs": 1.5, "max_steps": 0}, [1, 2]),
    ],
)
def test_when_checkpoints_are_saved(place: Place, config: dict[str, Any], saved: list[int]) -> None:
    place.steps(**{"max_steps": 5, **config})
    assert [event.step for event in place.told(Saved)] == saved


def test_the_evaluation_set_can_be_a_file(place: Place) -> None:
    place.steps(eval_datasets=["rows.jsonl"], eval_steps=2, max_steps=4)
    assert [event.step for event in place.told(Evaluated)] == [2, 4]


def test_without_a_number_of_steps_there_are_ten_evaluations(place: Place) -> None:
    place.steps(eval_split=0.2, max_steps=20)
    assert len(place.told(Evaluated)) == 10


def test_batches_can_be_packed_sorted_or_padded(place: Place) -> None:
    computed = {}
    for batching in ("packed", "sorted", "padded"):
        place.steps(batching, batching=batching, micro_batch_size=4, max_steps=1)
        (started,) = place.told(Started, batching)
        computed[batching] = started.computed
    assert computed["packed"] < computed["sorted"] < computed["padded"]


def test_precision_is_what_is_computed_in(place: Place) -> None:
    exact = place.steps("exact", max_steps=2, precision="fp32")
    rounded = place.steps("rounded", max_steps=2, precision="bf16")
    assert [s.loss for s in rounded] == pytest.approx([s.loss for s in exact], rel=0.02)
    assert rounded[0].loss != exact[0].loss
    assert place.told(Started, "rounded")[0].how.startswith("bfloat16")


def test_curves_go_to_the_tracker_that_was_asked_for(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[tuple[int, dict[str, float]]] = []
    run = types.SimpleNamespace(
        log=lambda values, step: logged.append((step, values)),
        finish=lambda: logged.append((0, {})),
    )
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **about: run))
    steps = place.steps(max_steps=2, report_to="wandb")
    assert [step for step, _ in logged] == [1, 2, 0]
    assert logged[0][1]["loss"] == steps[0].loss


def test_no_tracker_is_opened_unasked(place: Place) -> None:
    assert open_tracker(TrainingConfig(), place.root) is None


def test_the_base_can_be_quantized_while_it_is_read(place: Place) -> None:
    plain = place.steps("plain", max_steps=1)
    for bits in ("8bit", "4bit"):
        steps = place.steps(bits, max_steps=1, load_in=bits, dequantize="by layer")
        assert steps[0].loss != plain[0].loss
        assert steps[0].loss == pytest.approx(plain[0].loss, rel=0.1)
        assert f"{bits[0]}-bit, dequantized layer by layer" in place.told(Started, bits)[0].how


def test_what_needs_the_weights_of_the_base_is_refused_over_packed_ones(place: Place) -> None:
    assert place.run(load_in="4bit", dequantize="by layer", use_dora=True) == 1
    assert place.failure().remedy == "Set dequantize: once, or leave it out."
