"""Quantized layers on a card, as they are loaded: skipped where there is none.

What the engine's kernels make of them is in tests/engine/kernels/test_tiled_linear.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from modules.loader.options import LoadOptions
from modules.loader.quantization.linear import QuantizedLinear
from modules.loader.transformers_loader import load
from tests.loader.quantization.stored import (
    Form,
    tiny_config,
    write_quantized,
    write_tokenizer,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA card"),
]

IDS = torch.tensor([[5, 17, 200, 3, 99, 42, 7, 311, 12, 64]])
FORMS = [
    *(Form(bits=b, group_size=32) for b in (2, 3, 4, 8)),
    *(Form(bits=b, group_size=-1, symmetric=False) for b in (2, 3, 4, 8)),
    *(Form(bits=b, act_order=True, symmetric=False, version="v2") for b in (2, 3, 4, 8)),
    *(Form(method="awq", group_size=g, symmetric=False, version="gemm") for g in (32, 128)),
]  # fmt: skip
TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 1e-2}


@pytest.fixture(scope="module")
def tokenizer_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Here too, so that these tests run on a machine that has little more than torch."""
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def quiet(stage: str, fraction: float) -> None:
    """Progress that nobody follows."""


def logits_of(model: torch.nn.Module, device: str) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=IDS.to(device)).logits
    return logits.float().cpu()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_logits_are_those_of_the_dequantized_weights(
    form: Form, dtype: Any, tmp_path: Path, tokenizer_files: Path
) -> None:
    meant = logits_of(write_quantized(tmp_path / "model", form, tokenizer_files), "cpu")
    model = load(tmp_path / "model", quiet, LoadOptions(dtype=dtype)).model
    assert {p.device.type for p in model.parameters()} == {"cuda"}
    error = (logits_of(model, "cuda") - meant).norm() / meant.norm()
    assert error < TOLERANCE[dtype]


def test_a_layer_left_on_the_processor_is_brought_to_the_card(
    tmp_path: Path, tokenizer_files: Path
) -> None:
    meant = logits_of(write_quantized(tmp_path / "model", Form(), tokenizer_files), "cpu")
    places = {
        "model.embed_tokens": "cuda:0",
        "model.layers.0": "cuda:0",
        "model.layers.1": "cpu",
        "model.norm": "cuda:0",
        "model.rotary_emb": "cuda:0",
        "lm_head": "cuda:0",
    }
    model = load(tmp_path / "model", quiet, LoadOptions(dtype="float16"), places).model
    error = (logits_of(model, "cuda") - meant).norm() / meant.norm()
    assert error < 1e-2


@pytest.mark.parametrize(("quantize", "most"), [("8bit", 0.05), ("4bit", 0.5)])
def test_quantizing_while_loading_never_holds_the_16_bit_model(
    quantize: Any, most: float, tmp_path: Path, tokenizer_files: Path
) -> None:
    torch.manual_seed(0)
    config = tiny_config(hidden_size=512, intermediate_size=2048, num_hidden_layers=8)
    reference = LlamaForCausalLM(config).half()
    reference.save_pretrained(tmp_path)
    for file in tokenizer_files.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    whole = sum(p.nbytes for p in reference.parameters())
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model = load(tmp_path, quiet, LoadOptions(dtype="float16", quantize=quantize)).model
    peak = torch.cuda.max_memory_allocated() - before
    assert peak < 0.9 * whole
    assert sum(isinstance(m, QuantizedLinear) for m in model.modules()) == 56
    meant = logits_of(reference.float().eval(), "cpu")
    assert (logits_of(model, "cuda") - meant).norm() / meant.norm() < most
