"""Inspections of well-known models, by their shapes alone: no file is behind them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modules.loader.inspect import Inspection, TensorInfo
from modules.loader.machine import Card, Machine
from modules.loader.quantization.format import QuantizationFormat

__all__ = ["GPTQ", "LLAMA_2_7B", "LLAMA_2_70B", "Shape", "inspection", "machine"]

GPTQ = QuantizationFormat("gptq", 4, 128, symmetric=True, version="v1")


@dataclass(frozen=True)
class Shape:
    """What config.json says of a model of Llama's kind."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int = 128
    vocabulary: int = 32_000
    context: int = 4096
    tied: bool = False


LLAMA_2_7B = Shape("Llama-2-7B", 32, 4096, 11_008, 32, 32)
LLAMA_2_70B = Shape("Llama-2-70B", 80, 8192, 28_672, 64, 8)


def inspection(
    shape: Shape,
    quantization: QuantizationFormat | None = None,
    dtype: str = "float16",
    **fields: Any,
) -> Inspection:
    """The shape as a checkpoint, in 16 (or 32) bits or as GPTQ stores it."""
    tensors: dict[str, TensorInfo] = {}

    def put(name: str, kind: str, *size: int) -> None:
        width = {"F16": 2, "BF16": 2, "F32": 4, "I32": 4}[kind]
        tensors[name] = TensorInfo(kind, size, math.prod(size) * width, "model.safetensors")

    plain = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}[dtype]

    def linear(name: str, outputs: int, inputs: int) -> None:
        if quantization is None:
            put(f"{name}.weight", plain, outputs, inputs)
            return
        bits, group = quantization.bits, quantization.group_size
        groups = inputs // group if group > 0 else 1
        put(f"{name}.qweight", "I32", inputs * bits // 32, outputs)
        put(f"{name}.qzeros", "I32", groups, outputs * bits // 32)
        put(f"{name}.scales", "F16", groups, outputs)
        put(f"{name}.g_idx", "I32", inputs)

    shared = shape.kv_heads * shape.head_dim
    put("model.embed_tokens.weight", plain, shape.vocabulary, shape.hidden)
    for number in range(shape.layers):
        layer = f"model.layers.{number}"
        for part, outputs in (("q", shape.heads * shape.head_dim), ("k", shared), ("v", shared)):
            linear(f"{layer}.self_attn.{part}_proj", outputs, shape.hidden)
        linear(f"{layer}.self_attn.o_proj", shape.hidden, shape.heads * shape.head_dim)
        for part in ("gate", "up"):
            linear(f"{layer}.mlp.{part}_proj", shape.intermediate, shape.hidden)
        linear(f"{layer}.mlp.down_proj", shape.hidden, shape.intermediate)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            put(f"{layer}.{norm}.weight", plain, shape.hidden)
    put("model.norm.weight", plain, shape.hidden)
    if not shape.tied:
        put("lm_head.weight", plain, shape.vocabulary, shape.hidden)
    size = sum(info.nbytes for info in tensors.values())
    return replace(
        Inspection(
            name=shape.name,
            path=Path("models") / shape.name,
            architecture="LlamaForCausalLM",
            model_type="llama",
            parameters=size // 2,
            dtype=dtype,
            quantization=quantization,
            context_length=shape.context,
            layers=shape.layers,
            hidden_size=shape.hidden,
            intermediate_size=shape.intermediate,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            vocabulary=shape.vocabulary,
            tied_head=shape.tied,
            template_source="",
            weights=(),
            size_bytes=size,
            files={},
            tensors=tensors,
        ),
        **fields,
    )


def machine(*cards: float, ram: float = 64, disk: float = 500) -> Machine:
    """A machine whose cards, memory and disk have so many GB free, and no more in all."""
    memory = (int(ram * 1e9), int(ram * 1e9), int(disk * 1e9))
    sizes = (int(size * 1e9) for size in cards)
    return Machine(tuple(Card(i, f"Card {i}", size, size) for i, size in enumerate(sizes)), *memory)
