"""Loading a checkpoint: what it tells of itself, and how each damage is put into words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modules.engine.worker.model_info import model_info
from modules.errors import LoadFailedError
from modules.loader import transformers_loader
from modules.loader.options import LoadOptions
from modules.loader.transformers_loader import LoadedModel, load

CPU = LoadOptions(device="cpu")


def quiet(stage: str, fraction: float) -> None:
    """Progress that nobody watches."""


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def drop_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def test_the_info_is_the_models_own(tiny: LoadedModel, checkpoint: Path) -> None:
    info = model_info(checkpoint, tiny, CPU)
    saved = load_file(checkpoint / "model.safetensors")
    buffers = sum(b.nbytes for b in tiny.model.buffers())
    assert info.parameters == sum(t.numel() for t in saved.values())
    assert info.memory == sum(t.nbytes for t in saved.values()) + buffers
    assert (info.device, info.dtype, info.quantization) == ("cpu", "float32", "none")
    assert info.special_tokens["eos_token"] == "<|im_end|>"
    assert info.chat_template is not None
    assert "im_start" in info.chat_template


def test_loading_alters_no_weight(tiny: LoadedModel, checkpoint: Path) -> None:
    state = tiny.model.state_dict()
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        assert torch.equal(state[name], tensor), name


def test_bfloat16_on_request(checkpoint: Path) -> None:
    loaded = load(checkpoint, quiet, LoadOptions(device="cpu", dtype="bfloat16"))
    assert loaded.model.dtype == torch.bfloat16


def test_a_model_without_gradients_in_eval_mode(tiny: LoadedModel) -> None:
    assert not tiny.model.training
    assert not any(p.requires_grad for p in tiny.model.parameters())


def test_progress_grows_to_one(checkpoint: Path) -> None:
    seen: list[float] = []
    load(checkpoint, lambda stage, fraction: seen.append(fraction), CPU)
    assert seen == sorted(seen)
    assert seen[-1] == 1
    assert len(seen) > 10


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no tokenizer": (lambda d: (d / "tokenizer.json").unlink(), "has no tokenizer"),
    "bad tokenizer": (lambda d: (d / "tokenizer.json").write_text("{}"), "tokenizer of copy"),
    "cut weights": (cut, r"model\.safetensors is damaged"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "copy has no weights"),
    "a tensor missing": (drop_tensor, "lack 1 tensors"),
    "another shape": (lambda d: edit_config(d, hidden_size=32), "does not fit the weights"),
    "more layers": (lambda d: edit_config(d, num_hidden_layers=3), "lack"),
    "foreign model": (lambda d: edit_config(d, model_type="zebra"), "zebra"),
    "no config": (lambda d: (d / "config.json").unlink(), r"no config\.json"),
    "bad config": (lambda d: (d / "config.json").write_text("{"), "copy"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_put_into_one_line_with_a_remedy(copy: Path, name: str) -> None:
    damage, words = DAMAGE[name]
    damage(copy)
    with pytest.raises(LoadFailedError, match=words) as caught:
        load(copy, quiet, CPU)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 350
    assert caught.value.remedy.endswith(".")


def test_running_out_of_memory_has_its_own_remedy(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", full)
    with pytest.raises(LoadFailedError, match="memory ran out") as caught:
        load(copy, quiet, CPU)
    assert "smaller" in caught.value.remedy


def test_an_older_transformers_is_refused_by_its_number(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modules.loader.transformers_loader.transformers.__version__", "5.17.0")
    with pytest.raises(LoadFailedError, match=r"5\.17\.0.*requirements\.txt"):
        load(checkpoint, quiet, CPU)


def test_the_least_transformers_is_that_of_the_requirements() -> None:
    wanted = (Path(__file__).parents[2] / "requirements.txt").read_text().splitlines()
    assert f"transformers>={transformers_loader._LEAST_TRANSFORMERS}" in wanted
