"""What an inspection says of a checkpoint, and how little it reads to say it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modules.errors import ModelNotFoundError
from modules.loader.catalog import list_models
from modules.loader.checkpoint import check_checkpoint
from modules.loader.inspect import inspect_checkpoint
from tests.loader.folders import CONFIG, Shapes, gptq, make_model, make_packed_model, write_tensors

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "models" / "SmolLM2-135M-Instruct-GPTQ"

LLAMA_70B = CONFIG | {
    "torch_dtype": "bfloat16",
    "max_position_embeddings": 131072,
    "num_hidden_layers": 80,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}


def llama_layer(layer: int, hidden: int, inner: int, kv: int, dtype: str) -> Shapes:
    name = f"model.layers.{layer}"
    shapes = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    return {f"{name}.{part}.weight": (dtype, shape) for part, shape in shapes.items()}


@pytest.fixture
def llama_70b(tmp_path: Path) -> Path:
    """A folder with all the headers of Llama-3-70B, and holes for its tensors."""
    ends: Shapes = {
        "model.embed_tokens.weight": ("BF16", (128256, 8192)),
        "model.norm.weight": ("BF16", (8192,)),
        "lm_head.weight": ("BF16", (128256, 8192)),
    }
    shards: list[Shapes] = [ends]
    for first in range(0, 80, 4):
        layers = [llama_layer(i, 8192, 28672, 1024, "BF16") for i in range(first, first + 4)]
        shards.append({name: shape for layer in layers for name, shape in layer.items()})
    model = make_model(tmp_path, "Llama-70B", config__json=LLAMA_70B, model__safetensors=None)
    weight_map: dict[str, str] = {}
    for number, shapes in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_tensors(model / file, shapes)
        weight_map |= dict.fromkeys(shapes, file)
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return model


def test_a_model_of_70_billion_is_known_from_its_headers(llama_70b: Path) -> None:
    found = check_checkpoint(llama_70b)
    assert found.parameters == 70_553_706_496
    assert found.size_bytes > 141_000_000_000
    assert len(found.weights) == 21
    assert (found.layers, found.hidden_size, found.intermediate_size) == (80, 8192, 28672)
    assert (found.heads, found.kv_heads, found.head_dim) == (64, 8, 128)
    assert (found.context_length, found.vocabulary, found.tied_head) == (131072, 128256, False)
    assert (found.dtype, found.quantization) == ("bfloat16", None)
    norm = found.tensors["model.layers.79.input_layernorm.weight"]
    assert (norm.shape, norm.nbytes, norm.file) == ((8192,), 16384, found.weights[-1].name)


def test_no_tensor_of_it_is_read(llama_70b: Path) -> None:
    script = f"""
import os, resource
from pathlib import Path
resource.setrlimit(resource.RLIMIT_DATA, (256 * 2**20,) * 2)
from modules.loader.inspect import inspect_checkpoint
assert not inspect_checkpoint(Path({str(llama_70b)!r})).problem
read = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
assert int(read["rchar"]) < 32 * 2**20, read
"""
    if not Path("/proc/self/io").exists():
        pytest.skip("this system does not count what a process reads")
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=120)


def test_it_is_listed_with_its_size(llama_70b: Path) -> None:
    (entry,) = list_models(llama_70b.parent)
    assert entry.problem == ""
    assert entry.size_bytes > 141_000_000_000


# -- numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        ({"num_attention_heads": 8}, "kv_heads", 8),
        ({"n_head": 71, "multi_query": True}, "kv_heads", 1),
        ({"n_embd": 768, "n_head": 12}, "head_dim", 64),
        ({"head_dim": 256, "hidden_size": 64, "num_attention_heads": 4}, "head_dim", 256),
        ({"text_config": {"num_hidden_layers": 3}}, "layers", 3),
        ({"tie_word_embeddings": True}, "tied_head", True),
        ({}, "tied_head", True),
        ({}, "layers", 0),
        ({"num_hidden_layers": -1}, "layers", 0),
        ({"num_hidden_layers": True}, "layers", 0),
        ({"num_hidden_layers": 10**30}, "layers", 0),
        ({"num_hidden_layers": "32"}, "layers", 0),
        ({"num_hidden_layers": [32]}, "layers", 0),
        ({"hidden_size": 64, "num_attention_heads": 0}, "head_dim", 0),
        ({}, "window", 0),
        ({"sliding_window": 1024}, "window", 1024),
        ({"model_type": "mistral", "sliding_window": None}, "window", 0),
        ({"model_type": "mistral"}, "window", 4096),
        ({"model_type": "qwen2", "sliding_window": 1024}, "window", 0),
        ({"model_type": "qwen3", "sliding_window": 8, "use_sliding_window": True}, "window", 8),
    ],
)
def test_numbers_of_every_family_and_none_that_is_impossible(
    tmp_path: Path, config: dict[str, Any], field: str, value: Any
) -> None:
    inspection = inspect_checkpoint(make_model(tmp_path, config__json=CONFIG | config))
    assert getattr(inspection, field) == value


def test_a_head_of_its_own_is_not_tied(tmp_path: Path) -> None:
    shapes: Shapes = {"lm_head.weight": ("F16", (8, 8)), "x": ("F16", (8,))}
    assert not inspect_checkpoint(make_packed_model(tmp_path, shapes)).tied_head


def test_the_dtype_is_that_of_most_weights(tmp_path: Path) -> None:
    shapes: Shapes = {"a": ("F32", (8,)), "b": ("F16", (8, 8)), "c": ("I32", (80, 80))}
    inspection = inspect_checkpoint(make_packed_model(tmp_path, shapes))
    assert inspection.dtype == "float16"


def test_buffers_are_no_parameters(tmp_path: Path) -> None:
    shapes: Shapes = {"a": ("F16", (8,)), "model.rotary_emb.inv_freq": ("F32", (64,))}
    assert inspect_checkpoint(make_packed_model(tmp_path, shapes)).parameters == 8


def test_what_is_known_is_told_even_where_something_is_wrong(tmp_path: Path) -> None:
    model = make_model(tmp_path)
    (model / "tokenizer.json").unlink()
    inspection = inspect_checkpoint(model)
    assert (inspection.problem, inspection.safe) == ("Tiny has no tokenizer.", True)
    assert (inspection.architecture, inspection.parameters) == ("LlamaForCausalLM", 6)


def test_a_folder_that_would_run_code_is_not_safe(tmp_path: Path) -> None:
    inspection = inspect_checkpoint(
        make_model(tmp_path, config__json=CONFIG | {"auto_map": {"AutoModel": "evil.Model"}})
    )
    assert not inspection.safe
    assert "auto_map" in inspection.problem


def test_there_is_no_inspection_without_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="There is no folder"):
        inspect_checkpoint(tmp_path / "absent")


# -- the command ------------------------------------------------------------------------


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "modules.loader.inspect", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_command_prints_json(tmp_path: Path) -> None:
    model = make_packed_model(tmp_path, gptq(3, 64))
    answer = run(str(model), "--wbits", "3", "--groupsize", "64")
    shown = json.loads(answer.stdout)
    assert (answer.returncode, answer.stderr, shown["problem"]) == (0, "", "")
    assert shown["path"] == str(model)
    assert shown["weights"] == [str(model / "model.safetensors")]
    assert shown["files"]["tokenizer.json"] == 2
    assert shown["quantization"] | {"method": "gptq", "bits": 3} == shown["quantization"]
    assert "tensors" not in shown


def test_the_command_lists_tensors_on_request(tmp_path: Path) -> None:
    shown = json.loads(run(str(make_model(tmp_path)), "--tensors").stdout)
    assert shown["tensors"]["weight"]["shape"] == [2, 3]


@pytest.mark.parametrize("flags", [["absent"], [".", "--wbits", "5"]])
def test_the_command_answers_nonsense_with_one_line(flags: list[str]) -> None:
    answer = run(*flags)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr.count("\n") == 1
    assert "Traceback" not in answer.stderr


# -- a real one -------------------------------------------------------------------------


@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL.name} is not there")
def test_a_model_that_gptqmodel_made_is_read_as_it_was_made() -> None:
    found = check_checkpoint(REAL)
    form = found.quantization
    assert form is not None
    assert (form.method, form.bits, form.group_size, form.version) == ("gptq", 4, 64, "v1")
    assert (form.symmetric, form.act_order, form.readable) == (True, False, True)
    assert (found.parameters, found.dtype, found.tied_head) == (134_515_008, "bfloat16", True)
    assert found.template_source == "chat_template.jinja"


@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL.name} is not there")
def test_its_settings_can_be_told_from_its_shapes_alone(tmp_path: Path) -> None:
    config = json.loads((REAL / "config.json").read_text())
    del config["quantization_config"]
    model = make_model(tmp_path, config__json=config, model__safetensors=None)
    (model / "model.safetensors").symlink_to(REAL / "model.safetensors")
    found = check_checkpoint(model)
    assert found.quantization is not None
    assert (found.quantization.bits, found.quantization.group_size) == (4, 64)
    assert found.note
