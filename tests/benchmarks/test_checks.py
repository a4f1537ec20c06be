"""The reference that the benchmarks check the engine against."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.checks import dequantized, rounded
from benchmarks.random_checkpoint import write
from modules.loader.options import LoadOptions
from modules.loader.transformers_loader import load


def loaded_weight(folder: Path, name: str) -> torch.Tensor:
    model = load(folder, lambda stage, fraction: None, LoadOptions(device="cpu"), {}, "").model
    layer = model.get_submodule(name)
    return layer(torch.eye(layer.in_features)).t().detach()


def test_the_reference_reads_gptq_as_the_loader_does(tmp_path: Path) -> None:
    write(tmp_path, "gptq", "tiny")
    name = "model.layers.1.mlp.down_proj"
    own, loaders = dequantized(tmp_path)[f"{name}.weight"], loaded_weight(tmp_path, name)
    assert (own - loaders).norm() < 0.01 * own.norm()


def test_the_reference_has_every_weight_of_the_model(tmp_path: Path) -> None:
    write(tmp_path / "a", "gptq", "tiny")
    write(tmp_path / "b", "float16", "tiny")
    assert dequantized(tmp_path / "a").keys() == dequantized(tmp_path / "b").keys()


@pytest.mark.parametrize(("kind", "most"), [("8bit", 0.01), ("4bit", 0.12)])
def test_rounding_changes_the_layers_a_little_and_nothing_else(kind: str, most: float) -> None:
    torch.manual_seed(0)
    layer, head = "model.layers.0.self_attn.q_proj.weight", "lm_head.weight"
    weights = {layer: torch.randn(64, 256), head: torch.randn(64, 256)}
    made = rounded(weights, kind)
    assert 0 < (made[layer] - weights[layer]).norm() < most * weights[layer].norm()
    assert made[head] is weights[head]


def test_what_is_not_rounded_while_read_stays_as_it_is() -> None:
    weights = {"model.layers.0.self_attn.q_proj.weight": torch.randn(8, 128)}
    assert rounded(weights, "float16") is weights
