"""What lies in loras/, and what is refused before any library sees it."""

from __future__ import annotations

import json
import math
import pickle
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modules.errors import AdapterError, InvalidNameError, LanternError, UnsafeModelError
from modules.loader.adapter_base import BaseLayer, base_fingerprint, base_warning, check_fit
from modules.loader.adapters import check_adapter, find_adapter, list_adapters

Q = "base_model.model.model.layers.0.self_attn.q_proj"
SHAPES = {f"{Q}.lora_A.weight": (8, 64), f"{Q}.lora_B.weight": (64, 8)}
CONFIG = {
    "peft_type": "LORA",
    "r": 8,
    "lora_alpha": 16,
    "base_model_name_or_path": "meta-llama/Llama-2-7b-hf",
    "target_modules": ["q_proj"],
    "bias": "none",
}
FITTING = {"model.layers.0.self_attn.q_proj": BaseLayer(64, 64)}

Put = Callable[..., Path]


def write_tensors(file: Path, shapes: dict[str, tuple[int, ...]], dtype: str = "F32") -> None:
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        size = math.prod(shape) * {"F32": 4, "F16": 2, "I8": 1}[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))


@pytest.fixture
def put(tmp_path: Path) -> Put:
    def put(
        name: str = "alpaca",
        shapes: dict[str, tuple[int, ...]] = SHAPES,
        dtype: str = "F32",
        **config: Any,
    ) -> Path:
        folder = tmp_path / "loras" / name
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
        write_tensors(folder / "adapter_model.safetensors", shapes, dtype)
        return folder

    return put


# -- finding ----------------------------------------------------------------------------


def test_adapters_are_listed_with_what_they_are_and_what_is_wrong(put: Put, tmp_path: Path) -> None:
    put("alpaca", use_rslora=True)
    put("broken", peft_type="IA3")
    put(".downloading")
    one, other = list_adapters(tmp_path / "loras", Path("models/Llama-2-13B"))
    assert (one.name, one.kind, one.rank, one.targets) == ("alpaca", "rsLoRA", 8, ("q_proj",))
    assert (one.base, one.problem) == ("meta-llama/Llama-2-7b-hf", "")
    assert one.warning == "It was trained on meta-llama/Llama-2-7b-hf, and Llama-2-13B is loaded."
    assert other.problem == "broken is no LoRA but IA3."


def test_a_folder_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert list_adapters(tmp_path / "nowhere") == []


def test_an_adapter_is_found_and_a_near_name_is_named(put: Put, tmp_path: Path) -> None:
    assert find_adapter(tmp_path / "loras", put("alpaca-lora").name).is_dir()
    with pytest.raises(AdapterError, match=r"Did you mean alpaca-lora\?"):
        find_adapter(tmp_path / "loras", "alpaca-lara")


@pytest.mark.parametrize("name", ["..", "../models", "/etc", "", "a\x00b", ".hidden"])
def test_no_name_leads_out_of_the_folder(name: str, put: Put, tmp_path: Path) -> None:
    put()
    with pytest.raises(InvalidNameError):
        find_adapter(tmp_path / "loras", name)


# -- what a good one says ---------------------------------------------------------------


def test_scaling_is_of_alpha_and_of_each_layers_own_rank(put: Put) -> None:
    plain = check_adapter(put("plain")).layers["model.layers.0.self_attn.q_proj"]
    steady = check_adapter(put("steady", use_rslora=True)).layers.popitem()[1]  # type: ignore[attr-defined]
    assert plain.scaling == 16 / 8
    assert steady.scaling == pytest.approx(16 / 8**0.5)


@pytest.mark.parametrize(
    ("pattern", "scaling"),
    [
        ({"q_proj": 4}, 0.5),
        ({"self_attn.q_proj": 4}, 0.5),
        ({"^model.layers.0.self_attn.q_proj": 4}, 0.5),
        ({"xq_proj": 4, "^q_proj": 4, "proj": 4}, 2.0),
    ],
)
def test_an_alpha_of_its_own_is_for_the_module_that_is_named(
    put: Put, pattern: dict[str, int], scaling: float
) -> None:
    (layer,) = check_adapter(put(alpha_pattern=pattern)).layers.values()
    assert layer.scaling == scaling


def test_a_config_of_an_old_peft_is_read(put: Put) -> None:
    old = {"enable_lora": None, "merge_weights": False, "modules_to_save": None,
           "fan_in_fan_out": False, "inference_mode": True, "task_type": "CAUSAL_LM"}  # fmt: skip
    assert check_adapter(put(**old)).kind == "LoRA"


def test_a_config_that_names_modules_to_import_imports_none(put: Put) -> None:
    mapping = {"base_model_class": "Canary", "parent_library": "lantern_canary"}
    assert check_adapter(put(auto_mapping=mapping)).kind == "LoRA"
    assert "lantern_canary" not in sys.modules


# -- what is refused --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"peft_type": None}, "no LoRA but None"),
        ({"peft_type": ["LORA"]}, "no LoRA but"),
        ({"r": 0}, "sets r to 0"),
        ({"r": 10**9}, "sets r to 1000000000"),
        ({"r": True}, "sets r to True"),
        ({"r": "8"}, "sets r to 8"),
        ({"lora_alpha": float("nan")}, "sets lora_alpha to nan"),
        ({"lora_alpha": -1}, "sets lora_alpha to -1"),
        ({"lora_alpha": 1e300}, "sets lora_alpha to"),
        ({"rank_pattern": [8]}, "sets rank_pattern to"),
        ({"rank_pattern": {"q_proj": -8}}, "sets rank_pattern to -8"),
        ({"alpha_pattern": {"(a+)+$": 8}}, "regular expression in alpha_pattern"),
        ({"bias": "all"}, "trained biases too"),
        ({"init_lora_weights": "pissa_niter_4"}, "begun as pissa_niter_4, which changes"),
        ({"init_lora_weights": {"a": 1}}, "begun as"),
        ({"use_rslora": True, "use_dora": True}, "rsLoRA and DoRA at once"),
        ({"use_dora": True}, "do not fit together"),
        ({"lora_bias": True}, "sets lora_bias"),
        ({"trust_remote_code": True}, "sets trust_remote_code"),
        ({"custom": "os.system"}, "sets custom"),
        ({"layer_replication": [[0, 4]]}, "sets layer_replication"),
        ({"trainable_token_indices": [1]}, "sets trainable_token_indices"),
        ({"x" * 500: 1}, "sets xxx"),
    ],
)
def test_a_config_that_is_not_ours_to_apply_is_refused(
    put: Put, config: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(AdapterError) as caught:
        check_adapter(put(**config))
    assert sentence in caught.value.message
    assert len(caught.value.message) < 200
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("shapes", "sentence"),
    [
        ({}, "has no LoRA tensors"),
        ({f"{Q}.weight": (64, 64)}, "has no LoRA tensors"),
        ({f"{Q}.lora_A.weight": (8, 64)}, "do not fit together"),
        (SHAPES | {f"{Q}.lora_B.weight": (64, 4)}, "do not fit together"),
        (SHAPES | {f"{Q}.lora_B.weight": (64, 8, 1)}, "do not fit together"),
        (SHAPES | {f"{Q}.lora_magnitude_vector": (64,)}, "do not fit together"),
        (SHAPES | {f"{Q}.lora_A.default.weight": (8, 64)}, "twice"),
        (SHAPES | {"base_model.model.model.norm.weight": (64,)}, "replaces model.norm"),
        (SHAPES | {f"{Q}.hada_w1": (8, 64)}, "that no LoRA has"),
        (SHAPES | {"": (1,)}, "that no LoRA has"),
        (SHAPES | {"../../x.lora_A.weight": (8, 64)}, "that no LoRA has"),
    ],
)
def test_tensors_that_are_no_lora_are_refused(
    put: Put, shapes: dict[str, tuple[int, ...]], sentence: str
) -> None:
    with pytest.raises(AdapterError, match=sentence):
        check_adapter(put(shapes=shapes))


def test_a_rank_that_the_config_does_not_know_is_refused_with_both(put: Put) -> None:
    with pytest.raises(AdapterError, match=r"says rank 4, and its .*q_proj has rank 8"):
        check_adapter(put(r=4))
    assert check_adapter(put("patterned", r=4, rank_pattern={".*q_proj": 8})).rank == 8


def test_a_dtype_that_is_no_float_is_refused(put: Put) -> None:
    with pytest.raises(AdapterError, match="no LoRA has"):
        check_adapter(put(dtype="I8"))


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin"])
def test_a_pickle_is_refused_under_any_name(put: Put, name: str) -> None:
    folder = put()
    (folder / "adapter_model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UnsafeModelError, match="is a pickle"):
        check_adapter(folder)


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(put: Put, missing: str) -> None:
    folder = put()
    (folder / missing).unlink()
    with pytest.raises(AdapterError, match=missing):
        check_adapter(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "null", '{"peft_type": "LORA"'])
def test_a_damaged_config_is_named(put: Put, text: str) -> None:
    folder = put()
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(LanternError, match=r"adapter_config\.json"):
        check_adapter(folder)


# -- the base ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trained_on", "folder", "same"),
    [
        ("meta-llama/Llama-2-7b-hf", "TheBloke_Llama-2-7B-GPTQ", True),
        ("meta-llama/Llama-2-7b-hf", "TheBloke_Llama-2-7B-GPTQ_gptq-4bit-32g-actorder_True", True),
        ("meta-llama/Llama-2-7b-hf", "TheBloke_Llama-2-7B-chat-GPTQ", False),
        ("meta-llama/Llama-2-7b-hf", "Llama-2-13b-hf", False),
        ("/home/me/models/SmolLM2-135M-Instruct/", "SmolLM2-135M-Instruct", True),
        ("C:\\models\\tiny", "tiny", True),
        ("", "tiny", True),
    ],
)
def test_a_base_is_known_by_its_name_in_any_format(
    trained_on: str, folder: str, same: bool
) -> None:
    assert (base_warning(Path(folder), trained_on, "") == "") == same


def test_a_recorded_fingerprint_decides_and_a_name_does_not(put: Put, tmp_path: Path) -> None:
    base, other = tmp_path / "renamed", tmp_path / "Llama-2-7b"
    for folder, size in ((base, 8), (other, 16)):
        folder.mkdir()
        write_tensors(folder / "model.safetensors", {"w": (size,)})
    adapter = put()
    (adapter / "lantern.json").write_text(json.dumps({"base_sha256": base_fingerprint(base)}))
    assert check_adapter(adapter, base).warning == ""
    assert "trained on other weights" in check_adapter(adapter, other).warning


def test_a_finetune_of_the_same_shapes_has_another_fingerprint(tmp_path: Path) -> None:
    write_tensors(tmp_path / "model.safetensors", {"w": (1000,)})
    before = base_fingerprint(tmp_path)
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.seek(500)
        file.write(b"\x01")
    assert base_fingerprint(tmp_path) != before


def fit(put: Put, modules: dict[str, BaseLayer], **shapes: tuple[int, ...]) -> None:
    whole = {f"base_model.model.{k}.weight": v for k, v in shapes.items()}
    check_fit(check_adapter(put(shapes=SHAPES | whole)), "tiny", modules)


def test_an_adapter_that_fits_passes(put: Put) -> None:
    fit(put, FITTING)


def test_a_missing_layer_and_a_wrong_size_are_named(put: Put) -> None:
    with pytest.raises(AdapterError, match=r"changes a layer that tiny does not have: model\.lay"):
        fit(put, {})
    with pytest.raises(AdapterError, match=r"q_proj has 64 outputs, and that of tiny has 4,096\."):
        check_fit(check_adapter(put("b")), "tiny", {next(iter(FITTING)): BaseLayer(64, 4096)})


def test_another_vocabulary_is_told_with_both_numbers(put: Put) -> None:
    head = {"lm_head": BaseLayer(64, 32000, head=True)}
    with pytest.raises(AdapterError, match=r"vocabulary of 49,954 tokens, and tiny has 32,000\."):
        fit(put, FITTING | head, lm_head=(49954, 64))
