"""Tiny models on a card, with weights of every kind, and what they stand for in float32."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from modules.engine.mix import Mix
from modules.engine.worker.flights import Flights
from modules.engine.worker.llama.runner import LlamaRunner
from modules.engine.worker.runners import ReadyRunner, make_runner
from modules.engine.worker.sequence import Track
from modules.loader.quantization.linear import QuantizedLinear
from modules.loader.quantization.packing import pack
from modules.loader.transformers_loader import LoadedModel
from tests.engine.llama.tracks import ids_of, model_logits, track

__all__ = [
    "CASES",
    "CONTEXT",
    "DEVICE",
    "TOLERANCE",
    "VOCABULARY",
    "Case",
    "Packing",
    "Twin",
    "assert_close",
    "clear_rows",
    "made_ready",
    "pack_layers",
    "peft_model",
    "rounded",
    "text",
    "twin_of",
]

DEVICE = torch.device("cuda", 0)
CONTEXT, CACHE_TOKENS, VOCABULARY = 512, 8192, 320
TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 6e-2}
"""What logits may be off, relative to the length of their row."""

TINY: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.06,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
NINE_HEADS = {"hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3}
BIASES = {"attention_bias": True, "mlp_bias": True}
CLASSES: dict[type, type[PreTrainedModel]] = {
    LlamaConfig: LlamaForCausalLM,
    MistralConfig: MistralForCausalLM,
    Qwen2Config: Qwen2ForCausalLM,
    Qwen3Config: Qwen3ForCausalLM,
}
_INPUT_OF = {"q_proj": 0, "k_proj": 0, "v_proj": 0, "o_proj": 1, "gate_proj": 2, "up_proj": 2}
"""Layers with one input take it in one order."""


@dataclass(frozen=True)
class Packing:
    """How weights are packed; with `ordered`, inputs are in an order of their own (act-order)."""

    bits: int = 4
    group_size: int = 128
    zeros: bool = False
    ordered: bool = False


@dataclass(frozen=True)
class Case:
    """A kind of model, and of cache. Without `packing`, the weights are dense."""

    config: PreTrainedConfig
    dtype: torch.dtype
    packing: Packing | None = None
    int8: bool = False


@dataclass(frozen=True, eq=False)
class Twin:
    """A model in float32 on the processor, and the runner of the same weights on the card.

    `dtype` is the one that rounds as much as the runner does.
    """

    reference: PreTrainedModel
    runner: LlamaRunner
    flights: Flights
    dtype: torch.dtype

    def logits(self, ids: list[int]) -> Tensor:
        """[len(ids), vocabulary] in float32."""
        return model_logits(self.reference, ids)

    def fresh(self, ids: list[int], mix: Mix = ()) -> Track:
        """A track that finds nothing that is known."""
        self.runner._pool.clear()
        return track(ids, mix)

    def check(self, found: Tensor, ids: list[int]) -> None:
        """That logits [n, vocabulary] are those after the last n of `ids`."""
        assert_close(found, self.logits(ids)[-len(found) :], self.dtype)


def llama(**changes: Any) -> LlamaConfig:
    return LlamaConfig(**TINY | changes)


F16, BF16 = torch.float16, torch.bfloat16
CASES: dict[str, Case] = {
    "llama, 4 bits": Case(llama(), F16, Packing()),
    "llama, zero points": Case(llama(), BF16, Packing(group_size=64, zeros=True)),
    "llama, nine heads": Case(llama(**NINE_HEADS), F16, Packing(group_size=64)),
    "llama, biases": Case(llama(**BIASES), F16, Packing(group_size=64)),
    "llama, ordered": Case(llama(), F16, Packing(group_size=32, zeros=True, ordered=True)),
    "llama, 8 bits": Case(llama(), F16, Packing(bits=8)),
    "llama, 3 bits, no tiles": Case(llama(), F16, Packing(bits=3, group_size=32)),
    "llama, tied, 16 bits": Case(llama(tie_word_embeddings=True), F16),
    "llama, nine heads, 16 bits": Case(llama(**NINE_HEADS), BF16),
    "mistral, 4 bits": Case(MistralConfig(**TINY), F16, Packing(group_size=32, zeros=True)),
    "qwen 2, 4 bits": Case(Qwen2Config(**TINY), F16, Packing()),
    "qwen 2, 8 bits": Case(Qwen2Config(**TINY), BF16, Packing(8, group_size=32, zeros=True)),
    "qwen 3, 4 bits": Case(Qwen3Config(**TINY, head_dim=64), BF16, Packing(group_size=64)),
    "qwen 3, 16 bits": Case(Qwen3Config(**TINY, head_dim=64), F16),
    "llama, 4 bits, cache in 8": Case(llama(), F16, Packing(), int8=True),
    "llama, zero points, cache in 8": Case(
        llama(), BF16, Packing(group_size=64, zeros=True), int8=True
    ),
    "llama, nine heads, 16 bits, cache in 8": Case(llama(**NINE_HEADS), F16, int8=True),
    "qwen 3, 4 bits, cache in 8": Case(
        Qwen3Config(**TINY, head_dim=128), F16, Packing(group_size=64), int8=True
    ),
}


def text(length: int, seed: int = 0) -> list[int]:
    """Random tokens."""
    return ids_of(length, seed, VOCABULARY)


def twin_of(name: str) -> Twin:
    """Both models of one of `CASES`."""
    case = CASES[name]
    reference = _random_model(case.config, case.dtype)
    model = rounded(reference, case.dtype)
    if case.packing is not None:
        pack_layers(model, reference, case.packing)
    ready = made_ready(model, int8=case.int8)
    assert isinstance(ready.runner, LlamaRunner)
    assert ready.flights is not None
    # A cache in 8 bits rounds about as much as bfloat16.
    dtype = torch.bfloat16 if case.int8 else case.dtype
    return Twin(reference, ready.runner, ready.flights, dtype)


def rounded(reference: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A copy in another dtype."""
    copy: PreTrainedModel = nn.Module.to(deepcopy(reference), dtype)
    return copy


def made_ready(model: PreTrainedModel, *, int8: bool = False) -> ReadyRunner:
    """The runner of a model, on the card."""
    about: Any = SimpleNamespace(name="tiny", layers=3, kv_heads=2, head_dim=64)
    nobody: Any = None
    nn.Module.to(model, DEVICE)
    loaded = LoadedModel(model, nobody, about)
    return make_runner(loaded, CONTEXT, CACHE_TOKENS, lambda stage, fraction: None, int8=int8)


def pack_layers(model: PreTrainedModel, reference: PreTrainedModel, packing: Packing) -> None:
    """Give the layers of `model` random packed weights, and `reference` what they stand for."""
    made = torch.Generator().manual_seed(1)
    orders: dict[tuple[str, int], Tensor] = {}
    linears = {
        name: module
        for name, module in reference.named_modules()
        if type(module) is nn.Linear and "layers." in name
    }
    for name, linear in linears.items():
        place, _, own = name.rpartition(".")
        key = (place, _INPUT_OF.get(own, 3))
        if packing.ordered and key not in orders:
            orders[key] = torch.randperm(linear.in_features, generator=made).int()
        layer = _packed(linear, packing, orders.get(key), made)
        if linear.bias is not None:
            layer.bias = model.get_submodule(name).bias  # type: ignore[assignment]
        linear.weight.data = layer.dequantize(torch.float32)
        model.set_submodule(name, layer)


def peft_model(reference: PreTrainedModel, folders: dict[str, Path], mix: Mix) -> nn.Module:
    """`reference` with a mix of LoRAs over it, by PEFT itself; its weights scale what they add."""
    if not mix:
        return reference
    (first, _), *rest = mix
    model = PeftModel.from_pretrained(
        deepcopy(reference), str(folders[first]), first, torch_device="cpu"
    )
    for name, _ in rest:
        model.load_adapter(str(folders[name]), name, torch_device="cpu")
    layers: Any = model.base_model
    layers.set_adapter([name for name, _ in mix])
    for module in model.modules():
        scaling: Any = getattr(module, "scaling", None)
        for name, weight in mix:
            if isinstance(scaling, dict) and name in scaling:
                scaling[name] *= weight
    return model.eval()


def assert_close(found: Tensor, meant: Tensor, dtype: torch.dtype) -> None:
    """That logits [n, vocabulary] are close, and the likeliest tokens the same where clear."""
    found, meant = found.float().cpu(), meant.float().cpu()
    most = TOLERANCE[dtype]
    off = (found - meant).norm(dim=-1) / meant.norm(dim=-1)
    assert bool((off < most).all()), f"off by {off.tolist()}"
    clear = clear_rows(meant, dtype)
    assert torch.equal(found.argmax(-1)[clear], meant.argmax(-1)[clear])


def clear_rows(logits: Tensor, dtype: torch.dtype) -> Tensor:
    """Which rows of logits [n, vocabulary] have one that is the largest beyond the noise."""
    top = logits.topk(2).values
    return top[:, 0] - top[:, 1] > 4 * TOLERANCE[dtype] * logits.std(dim=-1)


def _random_model(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """In float32, of numbers that `dtype` has; norms and biases are random too."""
    torch.manual_seed(5)
    model: PreTrainedModel = nn.Module.eval(CLASSES[type(config)](config))
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data += torch.randn_like(parameter) * 0.2
    nn.Module.float(nn.Module.to(model, dtype))
    return model


def _packed(
    linear: nn.Linear, packing: Packing, order: Tensor | None, made: torch.Generator
) -> QuantizedLinear:
    """Random codes, in a layer of the same sizes, its weights about as large as those there."""
    bits, middle = packing.bits, 1 << (packing.bits - 1)
    inputs, outputs = linear.in_features, linear.out_features
    layer = QuantizedLinear(inputs, outputs, bits=bits, group_size=packing.group_size)
    # Weights whose mean is not 0 would make attention so sharp that it doubles any rounding.
    codes = torch.randint(1, 2 * middle, (outputs, inputs), dtype=torch.uint8, generator=made)
    layer.weight.data = pack(codes, bits)
    each = float(linear.weight.detach().std()) / (middle / 3**0.5)
    spread = torch.rand(layer.scales.shape, generator=made) + 0.5
    layer.scales.data = (each * spread).half()
    off = torch.randint(-(middle // 8), middle // 8 + 1, layer.scales.shape, generator=made)
    layer.zeros = nn.Parameter((middle + off).half(), False) if packing.zeros else None
    layer.perm = None if order is None else nn.Parameter(order, False)
    return layer
