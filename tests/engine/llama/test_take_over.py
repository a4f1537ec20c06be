"""The weights change hands: transformers computes what it did, and nothing is there twice.

The kernels of a card are stood for by `Products`, plain torch on the processor, so that the order
in which weights are taken together, and what is computed on the way, is checked everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel

from modules.engine.mix import Mix
from modules.engine.worker.kernels.low_rank import CHUNK, StackedRanks, shrink_reference
from modules.engine.worker.kernels.product import MOST_ROWS, LowRank, Norm, Rope
from modules.engine.worker.kernels.rows import (
    HeadShape,
    rms_norm_reference,
    rope_into_cache_reference,
    swiglu_reference,
)
from modules.engine.worker.kernels.tiled_linear import TiledLinear
from modules.engine.worker.kernels.tiles import Tiles
from modules.engine.worker.llama.runner import LlamaRunner
from modules.engine.worker.llama.take_over import take_over
from modules.engine.worker.runner import TransformersRunner
from modules.loader.options import LoadOptions
from modules.loader.quantization.linear import QuantizedLinear
from modules.loader.transformers_loader import load
from tests.engine.llama.test_models import MODELS, random_model
from tests.engine.llama.tracks import beginning, computed, ids_of, model_logits, track
from tests.engine.lora import LINEAR, make_adapter
from tests.engine.runners import llama_runner
from tests.loader.quantization.stored import Form, tiny_config, write_quantized

CONTEXT = 128


class Products:
    """What `ProductKernels` computes, in plain torch."""

    dtype = torch.float32

    def __init__(self) -> None:
        self.adapted = 0

    def multiply(
        self,
        weight: Tiles,
        x: Tensor,
        y: Tensor,
        *,
        bias: Tensor | None = None,
        norm: Norm | None = None,
        epilogue: str = "plain",
        rope: Rope | None = None,
        low_rank: LowRank | None = None,
    ) -> Tensor:
        assert len(x) <= MOST_ROWS
        if norm is not None:
            x = rms_norm_reference(x, norm.weight, norm.eps)
        product = torch.nn.functional.linear(x, self.dequantize(weight), bias)
        if low_rank is not None:
            product += low_rank.t @ out_of_lanes(low_rank.b)
            self.adapted += 1
        if rope is not None:
            kv_heads, dim = rope.keys.shape[1], rope.keys.shape[-1]
            shape = HeadShape(rope.heads, kv_heads, dim, paired=True)
            turned = rope_into_cache_reference(product, shape, rope.places, rope.keys, rope.values)
            return y.copy_(turned.view(len(x), -1))
        if epilogue == "add":
            return y.add_(product)
        return y.copy_(swiglu_reference(product, True) if epilogue == "swiglu" else product)

    def norms(self, weight: Tiles, rows: int) -> bool:
        return rows <= 8

    def dequantize(self, weight: Tiles) -> Tensor:
        return weight.dequantize(self.dtype)


class Ranks:
    """What `LowRankKernels` computes, in plain torch."""

    def shrink(
        self, x: Tensor, ranks: StackedRanks, shares: Tensor, norm: Norm | None = None
    ) -> LowRank:
        return LowRank(shrink_reference(x, ranks, shares, norm), ranks.b)


def out_of_lanes(b: Tensor) -> Tensor:
    """B [ranks, out] of what `in_lanes` made of it."""
    tiles, chunks = b.shape[:2]
    laid = b.view(tiles, chunks, 8, 4, 2, 2, 2).permute(0, 5, 2, 1, 4, 3, 6)
    return laid.reshape(16 * tiles, CHUNK * chunks).t()


Load = Callable[[Form], PreTrainedModel]
FORMS = {
    "4 bits": Form(),
    "4 bits with zero points": Form(symmetric=False),
    "groups of 128": Form(group_size=128),
    "8 bits": Form(bits=8, group_size=64),
    "awq": Form(method="awq", symmetric=False, version="gemm"),
    "biases": Form(bias=True),
    "an order of the inputs": Form(act_order=True, symmetric=False),
    "3 bits, which have no tiles": Form(bits=3),
}


@pytest.fixture
def loaded(tmp_path: Path, checkpoint: Path) -> Load:
    def loaded(form: Form) -> PreTrainedModel:
        folder = tmp_path / "model"
        if not folder.exists():
            write_quantized(folder, form, checkpoint)
        options = LoadOptions(device="cpu", dtype="float32")
        model = load(folder, lambda stage, fraction: None, options).model
        if form.act_order:
            share_orders(model)
        return model

    return loaded


def share_orders(model: PreTrainedModel) -> None:
    """As in real checkpoints: layers with the same input take it in the same order."""
    for layer in model.model.layers:  # type: ignore[union-attr]
        attention, mlp = layer.self_attn, layer.mlp
        attention.k_proj.perm = attention.v_proj.perm = attention.q_proj.perm
        mlp.up_proj.perm = mlp.gate_proj.perm


def over_tiles(model: PreTrainedModel) -> LlamaRunner:
    """A runner whose weights are in tiles, where they can be."""
    products: Any = Products()
    return llama_runner(model, CONTEXT, 8 * CONTEXT, products)


def memory(model: PreTrainedModel, *more: Any) -> int:
    """Bytes of all tensors that can be found, each storage once."""
    seen: dict[int, int] = {}
    holders: list[Any] = [*model.parameters(), *model.buffers(), *more]
    known: set[int] = set()
    while holders:
        one = holders.pop()
        if id(one) in known:
            continue
        known.add(id(one))
        if isinstance(one, Tensor):
            seen[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
        elif isinstance(one, list | tuple):
            holders += one
        elif hasattr(one, "__slots__") or type(one).__module__.startswith("modules."):
            names = [*getattr(one, "__slots__", ()), *getattr(one, "__dict__", ())]
            holders += [getattr(one, name) for name in names if hasattr(one, name)]
    return sum(seen.values())


def relative(found: Tensor, meant: Tensor) -> float:
    return float((found - meant).norm() / meant.norm())


@pytest.mark.parametrize("name", MODELS)
def test_the_model_computes_what_it_did_and_no_weight_is_there_twice(name: str) -> None:
    model, ids = random_model(MODELS[name]), ids_of(40)
    before, bytes_before = model_logits(model, ids), memory(model)
    weights = take_over(model, CONTEXT, None)
    assert relative(model_logits(model, ids), before) < 1e-6
    extra = weights.cos_sin.nbytes + sum(
        layer.qkv.bias.nbytes for layer in weights.layers if layer.qkv.bias is not None
    )
    extra += sum(
        layer.gate_up.bias.nbytes for layer in weights.layers if layer.gate_up.bias is not None
    )
    assert memory(model, weights) == bytes_before + extra


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("chunk", [1, 5, 40, 100])
def test_tiles_compute_what_their_layers_did(loaded: Load, name: str, chunk: int) -> None:
    model = loaded(FORMS[name])
    ids, rest = ids_of(75, vocabulary=320), ids_of(3, seed=1, vocabulary=320)
    expected = model_logits(model, ids + rest)
    runner = over_tiles(model)
    first = runner._model.weights.layers[0]
    tiled = isinstance(first.qkv, TiledLinear)
    assert tiled == ("no tiles" not in name)
    one = track(ids)
    found = torch.stack([beginning(runner, one, chunk), *computed(runner, one, rest)])
    assert relative(found, expected[74:]) < 1e-5
    assert relative(model_logits(model, ids + rest), expected) < 1e-5


@pytest.mark.parametrize("odd", ["self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"])
def test_a_layer_that_has_no_tiles_does_not_trouble_the_others(loaded: Load, odd: str) -> None:
    model = loaded(FORMS["4 bits"])
    layer = model.get_submodule(f"model.layers.1.{odd}")
    plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=False)  # type: ignore[arg-type]
    model.set_submodule(f"model.layers.1.{odd}", plain)
    ids = ids_of(20, vocabulary=320)
    expected = model_logits(model, ids)
    found = beginning(over_tiles(model), track(ids), chunk=3)
    assert relative(found, expected[-1]) < 1e-5


def test_an_order_of_the_inputs_that_a_later_layer_has_is_kept(loaded: Load) -> None:
    model = loaded(FORMS["an order of the inputs"])
    for module in model.model.layers[0].modules():  # type: ignore[union-attr,operator]
        if isinstance(module, QuantizedLinear):
            module.perm = None
    ids = ids_of(20, vocabulary=320)
    expected = model_logits(model, ids)
    found = beginning(over_tiles(model), track(ids), chunk=3)
    assert relative(found, expected[-1]) < 1e-5


def test_a_layer_in_tiles_still_tells_its_weight(loaded: Load) -> None:
    model = loaded(FORMS["4 bits with zero points"])
    layers = [m for m in model.modules() if isinstance(m, QuantizedLinear)]
    meant = [layer.dequantize(torch.float32) for layer in layers]
    over_tiles(model)
    for layer, weight in zip(layers, meant, strict=True):
        assert torch.equal(layer.dequantize(torch.float32), weight)
        assert layer.weight.numel() == layer.scales.numel() == 0


LORAS: dict[str, dict[str, dict[str, Any]]] = {
    "plain": {
        "a": {"target_modules": LINEAR},
        "b": {"target_modules": ["q_proj", "up_proj"], "r": 20},
    },
    "with DoRA": {
        "a": {"target_modules": LINEAR},
        "b": {"target_modules": ["q_proj", "up_proj"], "use_dora": True},
    },
}
MIXES: list[Mix] = [(), (("a", 1.0),), (("b", 1.0),), (("b", 0.5), ("a", -1.0))]


@pytest.mark.parametrize("loras", LORAS)
@pytest.mark.parametrize("name", ["4 bits", "biases", "an order of the inputs"])
def test_loras_add_to_tiles_what_they_add_to_the_layers(
    loaded: Load, name: str, loras: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "modules.engine.worker.llama.runner.low_rank_kernels", lambda *about: Ranks()
    )
    reference = loaded(FORMS[name])
    config = tiny_config(attention_bias=FORMS[name].bias)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "plain")
    theirs, ours = TransformersRunner(reference, CONTEXT), over_tiles(loaded(FORMS[name]))
    ids, rest = ids_of(40, vocabulary=320), ids_of(3, seed=1, vocabulary=320)
    for lora, options in LORAS[loras].items():
        folder = make_adapter(tmp_path / "plain", tmp_path / lora, seed=ord(lora), **options)
        theirs.load_adapter(lora, folder, ids)
        ours.load_adapter(lora, folder, ids)
    tracks = [track(ids, mix) for mix in MIXES]
    meant = []
    for mix in MIXES:
        one = track(ids, mix)
        meant.append(torch.stack([beginning(theirs, one), *computed(theirs, one, rest)]))
    rows = [[beginning(ours, one, chunk=15)] for one in tracks]
    for token_id in rest:
        for one in tracks:
            one.token_ids.append(token_id)
        for found, row in zip(rows, ours.decode(tracks).clone(), strict=True):
            found.append(row)
    for found, logits in zip(rows, meant, strict=True):
        assert relative(torch.stack(found), logits) < 1e-5
    assert relative(meant[1], meant[0]) > 1e-3 < relative(meant[2], meant[0])
    qkv: Any = ours._model.weights.layers[0].qkv
    if name != "an order of the inputs":  # which takes plain steps
        assert bool(qkv.kernels.adapted)
