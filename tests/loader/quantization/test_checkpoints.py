"""Every quantized format, from a checkpoint on disk to logits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from modules.errors import LoadFailedError
from modules.loader.options import LoadOptions
from modules.loader.quantization.aten import AtenInt4Linear
from modules.loader.quantization.linear import QuantizedLinear
from modules.loader.transformers_loader import load
from tests.loader.quantization.stored import Form, write_quantized

IDS = torch.tensor([[5, 17, 200, 3, 99, 42, 7, 311, 12, 64]])
EXACT = LoadOptions(device="cpu", dtype="float32")
FORMS = [
    Form(bits=bits, group_size=size, symmetric=symmetric, version=version)
    for bits in (2, 3, 4, 8)
    for size in (32, 64, 128, -1)
    for symmetric, version in ((True, "v1"), (False, "v1"), (False, "v2"))
]
ORDERED = [
    Form(bits=bits, group_size=size, symmetric=False, act_order=True, version=version)
    for bits in (2, 3, 4, 8)
    for size, version in ((32, "v1"), (128, "v2"))
]
AWQ = [
    Form(method="awq", group_size=size, symmetric=symmetric, version="gemm")
    for size in (32, 64, 128)
    for symmetric in (True, False)
]
ALL = [*FORMS, *ORDERED, Form(bias=True), Form(bias=True, bits=3, act_order=True), *AWQ]


def quiet(stage: str, fraction: float) -> None:
    """Progress that nobody follows."""


def name_of(form: Form) -> str:
    words = [form.method, f"{form.bits}bit", f"g{form.group_size}", form.version]
    words += ["sym"] * form.symmetric + ["act-order"] * form.act_order + ["bias"] * form.bias
    return "-".join(words)


def logits_of(model: torch.nn.Module) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(input_ids=IDS).logits.float()
    return logits


def relative_error(got: Tensor, meant: Tensor) -> float:
    return float((got - meant).norm() / meant.norm())


@pytest.mark.parametrize("form", ALL, ids=name_of)
def test_the_logits_are_those_of_the_dequantized_weights(
    form: Form, tmp_path: Path, tokenizer_files: Path
) -> None:
    reference = write_quantized(tmp_path / "model", form, tokenizer_files)
    exact = load(tmp_path / "model", quiet, EXACT).model
    assert sum(isinstance(m, QuantizedLinear) for m in exact.modules()) == 14
    for name, layer in exact.named_modules():
        if isinstance(layer, QuantizedLinear):
            weight = reference.get_submodule(name).weight
            assert torch.equal(layer.dequantize(torch.float32), weight), name
    meant = logits_of(reference)
    assert relative_error(logits_of(exact), meant) < 1e-4
    half = load(tmp_path / "model", quiet, LoadOptions(device="cpu", dtype="bfloat16")).model
    assert half.dtype == torch.bfloat16
    assert relative_error(logits_of(half), meant) < 1e-2


def test_what_says_nothing_is_not_kept(tmp_path: Path, tokenizer_files: Path) -> None:
    write_quantized(tmp_path / "model", Form(symmetric=True), tokenizer_files)
    layer = load(tmp_path / "model", quiet, EXACT).model.get_submodule("model.layers.0.mlp.up_proj")
    assert layer.zeros is None
    assert layer.perm is None


def test_the_processor_takes_torchs_own_product_unless_float32_is_asked_for(
    tmp_path: Path, tokenizer_files: Path
) -> None:
    reference = write_quantized(tmp_path / "model", Form(group_size=64), tokenizer_files)
    model = load(tmp_path / "model", quiet, LoadOptions(device="cpu")).model
    layer = model.get_submodule("model.layers.0.mlp.up_proj")
    assert isinstance(layer, AtenInt4Linear)
    assert relative_error(logits_of(model), logits_of(reference)) < 1e-2
    weight = reference.get_submodule("model.layers.0.mlp.up_proj").weight.detach()
    assert relative_error(layer.dequantize(torch.float32), weight) < 1e-2


def test_an_old_checkpoint_is_told_its_bits_and_groups(
    tmp_path: Path, tokenizer_files: Path
) -> None:
    folder = tmp_path / "model"
    reference = write_quantized(folder, Form(group_size=32), tokenizer_files)
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith("g_idx")}
    save_file(kept, folder / "gptq_model-4bit-32g.safetensors", metadata={"format": "pt"})
    options = LoadOptions(device="cpu", dtype="float32", wbits=4, groupsize=32)
    assert (
        relative_error(logits_of(load(folder, quiet, options).model), logits_of(reference)) < 1e-4
    )


def test_a_layer_that_lacks_a_tensor_is_named(tmp_path: Path, tokenizer_files: Path) -> None:
    folder = tmp_path / "model"
    write_quantized(folder, Form(), tokenizer_files)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.scales"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LoadFailedError, match="up_proj"):
        load(folder, quiet, EXACT)


def test_groups_that_are_not_of_one_size_are_refused(tmp_path: Path, tokenizer_files: Path) -> None:
    folder = tmp_path / "model"
    write_quantized(folder, Form(act_order=True), tokenizer_files)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.g_idx"][:] = 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LoadFailedError, match=r"groups of model.layers.1.mlp.up_proj"):
        load(folder, quiet, EXACT)


def test_layers_on_the_disk_compute_the_same(tmp_path: Path, tokenizer_files: Path) -> None:
    reference = write_quantized(tmp_path / "model", Form(act_order=True), tokenizer_files)
    places = {
        "model.embed_tokens": "cpu",
        "model.layers.0": "cpu",
        "model.layers.1": "disk",
        "model.norm": "cpu",
        "model.rotary_emb": "cpu",
        "lm_head": "cpu",
    }
    model = load(tmp_path / "model", quiet, EXACT, places, str(tmp_path / "offload")).model
    assert model.get_submodule("model.layers.1.mlp.up_proj").weight.device.type == "meta"
    assert relative_error(logits_of(model), logits_of(reference)) < 1e-4


@pytest.mark.parametrize("has_index", [True, False])
def test_shards_under_a_name_of_their_own_are_found_with_or_without_an_index(
    has_index: bool, tmp_path: Path, tokenizer_files: Path
) -> None:
    folder = tmp_path / "model"
    reference = write_quantized(folder, Form(), tokenizer_files)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {"llama-00001-of-00002": names[:20], "llama-00002-of-00002": names[20:]}
    for stem, part in halves.items():
        kept = {name: tensors[name] for name in part}
        save_file(kept, folder / f"{stem}.safetensors", metadata={"format": "pt"})
    index = {name: f"{stem}.safetensors" for stem, part in halves.items() for name in part}
    if has_index:
        written = json.dumps({"metadata": {}, "weight_map": index})
        (folder / "llama.safetensors.index.json").write_text(written)
    assert relative_error(logits_of(load(folder, quiet, EXACT).model), logits_of(reference)) < 1e-4
