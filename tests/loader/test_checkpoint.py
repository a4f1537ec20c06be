"""What makes a folder a model, and what makes it refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from modules.errors import ModelNotFoundError, NotAModelError, UnsafeModelError
from modules.loader.checkpoint import check_checkpoint
from tests.loader.folders import (
    CONFIG,
    awq,
    make_model,
    make_packed_model,
    safetensors,
)

# -- a good folder ----------------------------------------------------------------------


def test_a_complete_folder_is_described(tmp_path: Path) -> None:
    checkpoint = check_checkpoint(make_model(tmp_path, chat_template__jinja="{{ messages }}"))
    assert checkpoint.name == "Tiny"
    assert checkpoint.architecture == "LlamaForCausalLM"
    assert checkpoint.context_length == 2048
    assert checkpoint.template_source == "chat_template.jinja"
    assert checkpoint.quantization is None
    assert checkpoint.size_bytes == len(safetensors())


def test_a_quantized_folder_passes_and_names_its_method(tmp_path: Path) -> None:
    config = CONFIG | {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}
    quantization = check_checkpoint(
        make_packed_model(tmp_path, awq(), config__json=config)
    ).quantization
    assert quantization is not None
    assert (quantization.method, quantization.readable) == ("awq", True)


def test_the_chat_template_may_stand_in_the_tokenizer_config(tmp_path: Path) -> None:
    with_one = make_model(tmp_path, "A", tokenizer_config__json={"chat_template": "x"})
    without = make_model(tmp_path, "B", tokenizer_config__json={})
    assert check_checkpoint(with_one).template_source == "tokenizer_config.json"
    assert check_checkpoint(without).template_source == ""


def test_the_context_of_a_vision_model_stands_in_its_text_config(tmp_path: Path) -> None:
    config = {"model_type": "llava", "text_config": {"max_position_embeddings": 512}}
    assert check_checkpoint(make_model(tmp_path, config__json=config)).context_length == 512


def test_there_is_no_checkpoint_without_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="There is no folder"):
        check_checkpoint(tmp_path / "absent")


# -- something missing or damaged -------------------------------------------------------


@pytest.mark.parametrize(
    ("gone", "sentence"),
    [
        ("config.json", "Tiny has no config.json."),
        ("tokenizer.json", "Tiny has no tokenizer."),
        ("model.safetensors", "Tiny has no weights."),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, gone: str, sentence: str) -> None:
    model = make_model(tmp_path)
    (model / gone).unlink()
    with pytest.raises(NotAModelError) as caught:
        check_checkpoint(model)
    assert caught.value.message == sentence
    assert caught.value.remedy


@pytest.mark.parametrize(
    "text", ["{", "[1]", "", "\xff", "[" * 100_000, '{"model_type": 5}', '{"architectures": 3}']
)
def test_a_broken_config_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(NotAModelError, match=r"Tiny/config\.json"):
        check_checkpoint(make_model(tmp_path, config__json=text.encode("latin-1")))


def test_a_config_of_absurd_size_is_not_read(tmp_path: Path) -> None:
    model = make_model(tmp_path)
    with (model / "config.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(NotAModelError, match="larger than 32 MB"):
        check_checkpoint(model)


def test_a_lora_adapter_is_sent_to_its_own_folder(tmp_path: Path) -> None:
    with pytest.raises(NotAModelError, match="LoRA adapter"):
        check_checkpoint(make_model(tmp_path, adapter_config__json={"peft_type": "LORA"}))


# -- unsafe -----------------------------------------------------------------------------


def test_a_pickle_beside_safetensors_is_left_alone(tmp_path: Path) -> None:
    model = make_model(tmp_path, pytorch_model__bin=pickle.dumps({}))
    assert [file.name for file in check_checkpoint(model).weights] == ["model.safetensors"]


@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "entry",
    [
        {"auto_map": {"AutoModel": "evil.Model"}},
        {"text_config": {"auto_map": {"AutoConfig": "someone/evil--c.C"}}},
        {"parts": [{"trust_remote_code": True}]},
        {"_attn_implementation": "someone/kernel"},
        {"_attn_implementation_internal": "someone/kernel"},
        {"nested": {"attn_implementation": "someone/kernel"}},
        {"_experts_implementation": {"": "someone/kernel"}},
        {"transformers_weights": "adapter_model.bin"},
    ],
)
def test_a_configuration_that_names_code_is_refused(
    tmp_path: Path, file: str, entry: dict[str, Any]
) -> None:
    model = make_model(tmp_path, **{file.replace(".", "__"): CONFIG | entry})
    with pytest.raises(UnsafeModelError, match=file):
        check_checkpoint(model)


@pytest.mark.parametrize(
    "entry",
    [
        {"_attn_implementation_autoset": True},
        {"attn_implementation": "flash_attention_2"},
        {"trust_remote_code": False},
        {"auto_map": None},
        {"transformers_weights": "model.safetensors"},
    ],
)
def test_entries_that_cannot_name_code_do_no_harm(tmp_path: Path, entry: dict[str, Any]) -> None:
    assert check_checkpoint(make_model(tmp_path, config__json=CONFIG | entry))


def test_tokens_may_be_called_anything(tmp_path: Path) -> None:
    model = make_model(tmp_path, vocab__json={"auto_map": 1}, modules__json="[1]")
    assert check_checkpoint(model)


def test_what_is_unsafe_is_said_before_what_is_damaged(tmp_path: Path) -> None:
    model = make_model(
        tmp_path,
        config__json="{",
        generation_config__json={"auto_map": {"AutoModel": "evil.Model"}},
        model__safetensors=b"",
    )
    with pytest.raises(UnsafeModelError, match=r"generation_config\.json sets auto_map"):
        check_checkpoint(model)
