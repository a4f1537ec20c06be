"""What makes a folder a model, and what makes it refused."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from modules.errors import (
    InvalidNameError,
    ModelNotFoundError,
    NotAModelError,
    UnsafeModelError,
)
from modules.loader.checkpoint import (
    check_checkpoint,
    find_model,
    find_model_or_path,
    list_models,
)

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "max_position_embeddings": 2048,
}
HEADER: dict[str, Any] = {"weight": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}}


def safetensors(header: Any = HEADER, data: bytes = bytes(12)) -> bytes:
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def make_model(models: Path, name: str = "Tiny", /, **files: Any) -> Path:
    """A folder with all that a model needs; `files` replaces some (`__` stands for a dot)."""
    folder = models / name
    folder.mkdir(parents=True)
    contents: dict[str, Any] = {
        "config__json": CONFIG,
        "tokenizer__json": "{}",
        "model__safetensors": safetensors(),
    }
    for key, content in (contents | files).items():
        if isinstance(content, dict):
            content = json.dumps(content)
        data = content.encode() if isinstance(content, str) else content
        (folder / key.replace("__", ".")).write_bytes(data)
    return folder


class Canary:
    """Its pickle makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def pickles(canary: Path) -> dict[str, bytes]:
    made = {f"protocol {p}": pickle.dumps(Canary(canary), protocol=p) for p in range(6)}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", made["protocol 2"])
    return made | {"zip": archive.getvalue(), "dict": pickle.dumps({"a": 1}, protocol=0)}


# -- a good folder ----------------------------------------------------------------------


def test_a_complete_folder_is_described(tmp_path: Path) -> None:
    checkpoint = check_checkpoint(make_model(tmp_path, chat_template__jinja="{{ messages }}"))
    assert checkpoint.name == "Tiny"
    assert checkpoint.architecture == "LlamaForCausalLM"
    assert checkpoint.context_length == 2048
    assert checkpoint.has_chat_template
    assert checkpoint.quantization == ""
    assert checkpoint.size_bytes == len(safetensors())


def test_a_quantized_folder_passes_and_names_its_method(tmp_path: Path) -> None:
    config = CONFIG | {"quantization_config": {"quant_method": "awq", "bits": 4}}
    assert check_checkpoint(make_model(tmp_path, config__json=config)).quantization == "awq"


def test_an_old_gptq_folder_is_known_by_its_quantize_config(tmp_path: Path) -> None:
    model = make_model(tmp_path, quantize_config__json={"bits": 4, "group_size": 128})
    assert check_checkpoint(model).quantization == "gptq"


def test_the_chat_template_may_stand_in_the_tokenizer_config(tmp_path: Path) -> None:
    with_one = make_model(tmp_path, "A", tokenizer_config__json={"chat_template": "x"})
    without = make_model(tmp_path, "B", tokenizer_config__json={})
    assert check_checkpoint(with_one).has_chat_template
    assert not check_checkpoint(without).has_chat_template


def test_the_context_of_a_vision_model_stands_in_its_text_config(tmp_path: Path) -> None:
    config = {"model_type": "llava", "text_config": {"max_position_embeddings": 512}}
    assert check_checkpoint(make_model(tmp_path, config__json=config)).context_length == 512


def test_the_shards_of_an_index_are_the_weights(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    model = make_model(
        tmp_path,
        **{
            "model__safetensors__index__json": index,
            "model-1__safetensors": safetensors(),
            "model-2__safetensors": safetensors(),
        },
    )
    names = [file.name for file in check_checkpoint(model).weights]
    assert names == ["model-1.safetensors", "model-2.safetensors"]


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


def test_missing_shards_are_named(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    model = make_model(
        tmp_path,
        **{
            "model__safetensors__index__json": index,
            "model-1__safetensors": safetensors(),
        },
    )
    with pytest.raises(NotAModelError, match=r"lacks model-2\.safetensors, which"):
        check_checkpoint(model)


@pytest.mark.parametrize("name", ["../other/model.safetensors", "/etc/passwd", 7, "weights.bin"])
def test_an_index_may_only_name_safetensors_in_its_folder(tmp_path: Path, name: Any) -> None:
    index = {"weight_map": {"a": name}}
    with pytest.raises(NotAModelError, match="does not say which files"):
        check_checkpoint(make_model(tmp_path, model__safetensors__index__json=index))


def test_weights_under_another_name_are_not_guessed_at(tmp_path: Path) -> None:
    model = make_model(tmp_path)
    (model / "model.safetensors").rename(model / "consolidated.safetensors")
    with pytest.raises(NotAModelError, match=r"neither model\.safetensors nor"):
        check_checkpoint(model)


def test_a_lora_adapter_is_sent_to_its_own_folder(tmp_path: Path) -> None:
    with pytest.raises(NotAModelError, match="LoRA adapter"):
        check_checkpoint(make_model(tmp_path, adapter_config__json={"peft_type": "LORA"}))


def test_a_gguf_file_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "Q4").mkdir()
    (tmp_path / "Q4" / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(NotAModelError, match="GGUF"):
        check_checkpoint(tmp_path / "Q4")


@pytest.mark.parametrize("length", range(len(safetensors())))
def test_safetensors_cut_off_anywhere_are_refused(tmp_path: Path, length: int) -> None:
    model = make_model(tmp_path, model__safetensors=safetensors()[:length])
    with pytest.raises(NotAModelError, match=r"Tiny/model\.safetensors is damaged"):
        check_checkpoint(model)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "BF17"},
        {"dtype": ["BF16"]},
        {"shape": [2, 4]},
        {"shape": [-2, -3]},
        {"shape": [2.0, 3]},
        {"shape": [True, 6]},
        {"shape": None},
        {"shape": [2**62, 2**62]},
        {"data_offsets": [0]},
        {"data_offsets": [0, 8]},
        {"data_offsets": [4, 16]},
        {"data_offsets": [-12, 0]},
        {"data_offsets": ["0", "12"]},
    ],
)
def test_a_tensor_that_is_described_wrongly_is_refused(
    tmp_path: Path, entry: dict[str, Any]
) -> None:
    weights = safetensors({"weight": HEADER["weight"] | entry})
    with pytest.raises(NotAModelError, match=r"model\.safetensors is damaged"):
        check_checkpoint(make_model(tmp_path, model__safetensors=weights))


@pytest.mark.parametrize(
    "weights",
    [
        safetensors() + b"more",
        safetensors([]),
        safetensors({"weight": 3}),
        safetensors(HEADER | {"twin": HEADER["weight"]}),
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 4) + b"{{}}",
    ],
)
def test_a_damaged_header_is_refused(tmp_path: Path, weights: bytes) -> None:
    with pytest.raises(NotAModelError, match=r"model\.safetensors is damaged"):
        check_checkpoint(make_model(tmp_path, model__safetensors=weights))


# -- unsafe -----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt", ".safetensors", ".dat", ""])
@pytest.mark.parametrize("kind", list(pickles(Path("canary"))))
def test_a_pickle_under_any_name_is_refused_unread(tmp_path: Path, kind: str, suffix: str) -> None:
    model = make_model(tmp_path)
    (model / "model.safetensors").unlink()
    (model / f"model{suffix}").write_bytes(pickles(tmp_path / "canary")[kind])
    with pytest.raises(UnsafeModelError, match=rf"Tiny/model{suffix} is a pickle") as caught:
        check_checkpoint(model)
    assert "safetensors" in caught.value.remedy
    assert not (tmp_path / "canary").exists()


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
    ],
)
def test_entries_that_cannot_name_code_do_no_harm(tmp_path: Path, entry: dict[str, Any]) -> None:
    assert check_checkpoint(make_model(tmp_path, config__json=CONFIG | entry))


def test_tokens_may_be_called_anything(tmp_path: Path) -> None:
    model = make_model(tmp_path, vocab__json={"auto_map": 1}, modules__json="[1]")
    assert check_checkpoint(model)


# -- names ------------------------------------------------------------------------------


def test_models_are_listed_by_name_with_what_is_wrong(tmp_path: Path) -> None:
    make_model(tmp_path, "beta")
    make_model(tmp_path, "Alpha", config__json="{")
    make_model(tmp_path, ".Gamma.partial-1")
    (tmp_path / "README.md").write_text("one folder a model")
    listed = [(entry.name, entry.problem) for entry in list_models(tmp_path)]
    assert listed == [("Alpha", "Alpha/config.json is no valid JSON."), ("beta", "")]


def test_the_size_of_a_listed_model_counts_its_files(tmp_path: Path) -> None:
    model = make_model(tmp_path)
    size = sum(file.stat().st_size for file in model.iterdir())
    assert [entry.size_bytes for entry in list_models(tmp_path)] == [size]


def test_a_folder_with_an_impossible_name_is_listed_with_that_problem(tmp_path: Path) -> None:
    make_model(tmp_path, "con")
    assert "cannot be used as a name" in list_models(tmp_path)[0].problem


def test_no_models_directory_means_no_models(tmp_path: Path) -> None:
    assert list_models(tmp_path / "absent") == []


def test_a_model_is_found_by_name(tmp_path: Path) -> None:
    model = make_model(tmp_path, "Tiny model")
    assert find_model(tmp_path, "Tiny model") == model


@pytest.mark.parametrize(
    "asked", ["TheBloke_Llama-2-7B-chat-GPTQ", "thebloke_llama-2-7b-gptq", "Llama-2-7B"]
)
def test_an_unknown_name_brings_its_nearest_neighbour(tmp_path: Path, asked: str) -> None:
    make_model(tmp_path, "TheBloke_Llama-2-7B-GPTQ")
    make_model(tmp_path, "SmolLM2-135M-Instruct")
    with pytest.raises(ModelNotFoundError, match=r"Did you mean TheBloke_Llama-2-7B-GPTQ\?"):
        find_model(tmp_path, asked)


def test_a_name_like_no_other_brings_what_there_is(tmp_path: Path) -> None:
    make_model(tmp_path, "Tiny")
    with pytest.raises(ModelNotFoundError, match=r"There are: Tiny\."):
        find_model(tmp_path, "qwwwx")


def test_an_empty_models_directory_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"download-model\.py starter"):
        find_model(tmp_path, "Tiny")


@pytest.mark.parametrize(
    "name", ["../Tiny", "/etc", ".", "..", "", "a/b", "a\0b", "con", "x" * 300]
)
def test_a_hostile_name_finds_nothing(tmp_path: Path, name: str) -> None:
    make_model(tmp_path)
    with pytest.raises(InvalidNameError):
        find_model(tmp_path / "Tiny", name)


def test_the_command_line_may_give_a_path(tmp_path: Path) -> None:
    model = make_model(tmp_path / "elsewhere")
    assert find_model_or_path(tmp_path, f"{model}/") == model


def test_the_command_line_may_give_a_name(tmp_path: Path) -> None:
    model = make_model(tmp_path)
    assert find_model_or_path(tmp_path, "Tiny") == model


def test_a_path_that_leads_nowhere_is_said_to(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"There is no folder \./absent\."):
        find_model_or_path(tmp_path, "./absent")
