"""LoRAs merged into their base: the logits stay, whatever kind of LoRA and of base it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer, pre_tokenizers
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from modules.errors import AdapterError, InvalidInputError, NotFoundError, StorageError
from modules.loader.adapters import check_adapter
from modules.loader.checkpoint import check_checkpoint
from modules.loader.options import LoadOptions
from modules.loader.transformers_loader import load
from modules.training.export import Exported, ExportFolders, export, find_subject, main
from modules.training.trainer.merge import merge
from tests.engine.lora import logits, make_adapter, peft_logits
from tests.loader.quantization.stored import Form, write_quantized, write_tokenizer
from tests.training.trainer.runs import Place, make_base


@pytest.fixture
def folders(tmp_path: Path) -> ExportFolders:
    return ExportFolders(tmp_path / "models", tmp_path / "loras", tmp_path / "data")


def exported(folders: ExportFolders, adapter: Path, **options: Any) -> Exported:
    subject = find_subject(str(adapter), None, folders)
    return export(subject, folders.models / "merged", folders, **{"dtype": "float32", **options})


def plain_logits(folder: Path) -> Tensor:
    return logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())


def close(got: Tensor, meant: Tensor, within: float) -> bool:
    return bool((got - meant).norm() <= within * meant.norm())


def words_apart(folder: Path) -> Path:
    """Have the tokenizer in a folder split a text at its spaces."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
        {"target_modules": ["v_proj"], "modules_to_save": ["lm_head"]},
    ],
    ids=["LoRA", "rsLoRA", "DoRA", "embeddings", "a whole head"],
)
def test_the_logits_are_those_of_base_and_adapter(
    folders: ExportFolders, options: dict[str, Any]
) -> None:
    base = make_base(folders.models / "tiny", tie_word_embeddings=False)
    adapter = make_adapter(base, folders.loras / "style", **options)
    made = exported(folders, adapter)
    meant = peft_logits(base, adapter)
    assert close(plain_logits(made.path), meant, 1e-5)
    assert not close(plain_logits(base), meant, 0.05)
    ours = load(made.path, lambda stage, fraction: None, LoadOptions(device="cpu"))
    assert close(logits(ours.model), meant, 1e-5)


def test_a_head_that_was_the_embedding_gets_weights_of_its_own(folders: ExportFolders) -> None:
    base = make_base(folders.models / "tiny", tie_word_embeddings=True)
    adapter = make_adapter(base, folders.loras / "style", target_modules=["embed_tokens"])
    made = exported(folders, adapter)
    assert json.loads((made.path / "config.json").read_text())["tie_word_embeddings"] is False
    assert close(plain_logits(made.path), peft_logits(base, adapter), 1e-5)


def test_other_loras_leave_the_head_tied(folders: ExportFolders) -> None:
    base = make_base(folders.models / "tiny", tie_word_embeddings=True)
    adapter = make_adapter(base, folders.loras / "style")
    made = exported(folders, adapter)
    assert "lm_head.weight" not in check_checkpoint(made.path).tensors
    assert close(plain_logits(made.path), peft_logits(base, adapter), 1e-5)


@pytest.mark.parametrize(
    "form",
    [Form(), Form(symmetric=False, act_order=True), Form("awq", symmetric=False)],
    ids=["GPTQ", "act-order", "AWQ"],
)
def test_a_quantized_base_is_dequantized_and_its_perplexity_compared(
    folders: ExportFolders, tmp_path: Path, form: Form
) -> None:
    tokenizer = words_apart(write_tokenizer(tmp_path / "tokenizer"))
    reference = write_quantized(folders.models / "packed", form, tokenizer)
    reference.save_pretrained(tmp_path / "twin" / "packed")
    adapter = make_adapter(tmp_path / "twin" / "packed", folders.loras / "style")
    text = tmp_path / "text.txt"
    text.write_text("A B C D E F G H I J K L M N O P\n" * 8)
    made = exported(folders, adapter, text=text, dtype="automatic")
    assert close(plain_logits(made.path), peft_logits(tmp_path / "twin" / "packed", adapter), 0.01)
    config = json.loads((made.path / "config.json").read_text())
    assert (config["torch_dtype"], "quantization_config" in config) == ("float16", False)
    (note,) = made.notes
    assert note.startswith("Perplexity on ")
    assert note in (made.path / "README.md").read_text()


def test_large_models_are_written_in_several_files(folders: ExportFolders, tmp_path: Path) -> None:
    base = make_base(folders.models / "tiny")
    adapter = make_adapter(base, folders.loras / "style")
    output = tmp_path / "merged"
    output.mkdir()
    about = check_checkpoint(base), check_adapter(adapter, base)
    merged = merge(*about, output, torch.float32, shard_bytes=20_000)
    assert len(merged.files) > 2
    assert all((output / name).stat().st_size < 80_000 for name in merged.files)
    names = set()
    for name in merged.files:
        with safe_open(output / name, "pt") as file:
            names |= set(file.keys())
    index = json.loads((output / "model.safetensors.index.json").read_text())
    assert names == set(index["weight_map"]) == set(check_checkpoint(base).tensors)
    (output / "config.json").write_text((base / "config.json").read_text())
    assert close(plain_logits(output), peft_logits(base, adapter), 1e-5)


def test_what_is_written_is_16_bit_and_has_the_tokenizer(folders: ExportFolders) -> None:
    base = make_base(folders.models / "tiny")
    made = exported(folders, make_adapter(base, folders.loras / "style"), dtype="automatic")
    assert {info.dtype for info in check_checkpoint(made.path).tensors.values()} == {"BF16"}
    text = "a lantern in the night"
    ids = [AutoTokenizer.from_pretrained(folder)(text)["input_ids"] for folder in (base, made.path)]
    assert ids[0] == ids[1]


def test_a_lora_of_another_model_is_refused_and_leaves_nothing(folders: ExportFolders) -> None:
    base = make_base(folders.models / "tiny")
    other = make_base(folders.models / "other", hidden_size=64)
    adapter = make_adapter(other, folders.loras / "style")
    with pytest.raises(AdapterError, match="another size"):
        exported(folders, adapter, base=base.name)
    assert sorted(child.name for child in folders.models.iterdir()) == ["other", "tiny"]


def test_no_folder_is_overwritten(folders: ExportFolders) -> None:
    base = make_base(folders.models / "tiny")
    adapter = make_adapter(base, folders.loras / "style")
    (folders.models / "merged").mkdir()
    with pytest.raises(InvalidInputError, match="already"):
        exported(folders, adapter)


def test_a_full_disk_is_known_before_anything_is_written(
    folders: ExportFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_base(folders.models / "tiny")
    adapter = make_adapter(base, folders.loras / "style")
    full = shutil.disk_usage(base)._replace(free=0)
    monkeypatch.setattr("shutil.disk_usage", lambda path: full)
    with pytest.raises(StorageError, match="Make room"):
        exported(folders, adapter)


def test_a_run_is_exported_by_its_name_or_at_a_checkpoint(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.steps(max_steps=4, save_steps=2, eval_split=0.2)
    run = place.folder()
    (place.root / "data").mkdir(exist_ok=True)
    run.parent.rename(place.root / "data" / "training")
    named = ("--model-dir", "models"), ("--lora-dir", "loras"), ("--user-data-dir", "data")
    flags = [part for flag, child in named for part in (flag, str(place.root / child))]
    assert main(["run", "--to", "models/last", "--dtype", "float32", *flags]) == 0
    early = ["--to", "early", "--checkpoint", "2", "--dtype", "float32"]
    assert main(["run", *early, *flags]) == 0
    assert "Exported to" in capsys.readouterr().out
    models = place.root / "models"
    last = peft_logits(models / "tiny", place.root / "loras" / "made")
    checkpoint = place.root / "data" / "training" / "run" / "checkpoints" / "step-000002"
    assert close(plain_logits(models / "last"), last, 1e-5)
    assert close(plain_logits(models / "early"), peft_logits(models / "tiny", checkpoint), 1e-5)
    assert main(["run", "--to", "none", "--checkpoint", "99", *flags]) == 1
    assert "There are: 1, 2, " in capsys.readouterr().out


def test_what_is_not_there_is_said(folders: ExportFolders) -> None:
    with pytest.raises(AdapterError, match="There is no LoRA called style"):
        find_subject("style", None, folders)
    with pytest.raises(NotFoundError, match="There is no run style"):
        find_subject("style", 3, folders)
