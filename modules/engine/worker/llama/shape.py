"""`Shape`: what of a Llama's configuration its computation depends on, and which models fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LlamaForCausalLM,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)

__all__ = ["Shape", "cos_sin", "decoder_of", "unfit"]

_FAMILY = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
_ROPES = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary embedding whose frequencies do not depend on the length of the text."""


@dataclass(frozen=True, slots=True)
class Shape:
    """`hidden` is the width of the residual, `eps` that of every RMSNorm."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    eps: float

    @classmethod
    def of(cls, model: PreTrainedModel) -> Shape:
        """The shape of a model that fits."""
        config: Any = model.config
        embedding: Any = model.get_input_embeddings()
        head_dim = getattr(config, "head_dim", None)
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=head_dim or config.hidden_size // config.num_attention_heads,
            vocabulary=int(embedding.weight.shape[0]),
            eps=float(config.rms_norm_eps),
        )


def unfit(model: PreTrainedModel, context: int) -> str:
    """Why the fast runner does not serve a model with so long a context; "" if it does."""
    config: Any = model.config
    if type(model) not in _FAMILY:
        return f"{type(model).__name__} is no Llama"
    if config.hidden_act != "silu":
        return f"its activation is {config.hidden_act}"
    rope = config.rope_parameters.get("rope_type", "default")
    if rope not in _ROPES:
        return f"its rotary embedding is of the kind {rope}"
    if config.rope_parameters.get("partial_rotary_factor", 1) != 1:
        return "its rotary embedding turns a part of each head"
    window = config.sliding_window if _slides(config) else None
    if window is not None and window < context:
        return f"its window of {window} tokens is shorter than the context"
    if len({parameter.device for parameter in model.parameters()}) > 1:
        return "it lies on several devices"
    return ""


def _slides(config: Any) -> bool:
    layers = getattr(config, "layer_types", None)
    if layers is not None:
        return "sliding_attention" in layers
    return getattr(config, "sliding_window", None) is not None


def cos_sin(model: PreTrainedModel, positions: int, device: torch.device) -> Tensor:
    """float32 [positions, head_dim]: cosines, then sines, with the factor of the rope."""
    rope = decoder_of(model).rotary_emb
    places = torch.arange(positions, dtype=torch.float32, device=device)
    angles = places[:, None] * rope.inv_freq.to(device=device, dtype=torch.float32)
    scaled: Tensor = torch.cat([angles.cos(), angles.sin()], dim=1) * rope.attention_scaling
    return scaled


def decoder_of(model: PreTrainedModel) -> Any:
    """The part of a causal model below its head."""
    return model.get_decoder()  # type: ignore[no-untyped-call]
