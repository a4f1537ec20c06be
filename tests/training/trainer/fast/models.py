"""Tiny random models with LoRAs, and what one step of them gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from modules.loader.quantization.linear import QuantizedLinear
from modules.training.packing import IGNORED
from modules.training.trainer.attention import NAME
from modules.training.trainer.fast.loss import summed_loss

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_SIZES: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip


def llama(**changes: Any) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**(_SIZES | changes)))


def mistral() -> PreTrainedModel:
    return MistralForCausalLM(MistralConfig(**_SIZES, sliding_window=5))


def qwen2() -> PreTrainedModel:
    model = Qwen2ForCausalLM(Qwen2Config(**_SIZES))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    return model


def qwen3() -> PreTrainedModel:
    model = Qwen3ForCausalLM(Qwen3Config(**_SIZES, head_dim=32))
    for name, parameter in model.named_parameters():
        if "_norm" in name:
            nn.init.normal_(parameter, mean=1.0, std=0.3)
    return model


class _OverPacked(LoraLinear):
    """PEFT's layer over a packed one."""


def with_lora(model: PreTrainedModel, targets: Sequence[str] = ALL, **about: Any) -> PeftModel:
    """A LoRA that changes something already, with a rank that is no multiple of 8."""
    config = LoraConfig(
        target_modules=list(targets), task_type="CAUSAL_LM", **({"r": 3, "lora_alpha": 6} | about)
    )
    config._register_custom_module({QuantizedLinear: _OverPacked})
    model.set_attn_implementation(NAME)
    peft = get_peft_model(model, config)
    assert isinstance(peft, PeftModel)
    for name, parameter in peft.named_parameters():
        if ".lora_" in name:
            nn.init.normal_(parameter, std=0.1)
    return peft


def rows_of(lengths: Sequence[int], vocabulary: int = 97) -> list[Tensor]:
    made = torch.Generator().manual_seed(1)
    return [torch.randint(0, vocabulary, (length,), generator=made) for length in lengths]


def packed(rows: Sequence[Tensor], device: str = "cpu") -> tuple[dict[str, Any], Tensor]:
    """What the model is called with, and the labels, of rows in one pack."""
    lengths = [len(row) for row in rows]
    ends = torch.tensor([0, *lengths]).cumsum(0).int()
    labels = [torch.cat([torch.tensor([IGNORED]), row[1:]]) for row in rows]
    about = {
        "input_ids": torch.cat(list(rows))[None].to(device),
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None].to(device),
        "cu_seqlens": ends.to(device),
        "max_seqlen": max(lengths),
        "use_cache": False,
    }
    return about, torch.cat(labels)[None].to(device)


def loss_of(model: PeftModel, about: dict[str, Any], labels: Tensor) -> Tensor:
    inner: Any = model.get_base_model()
    hidden = inner.get_decoder()(**about).last_hidden_state
    return summed_loss(hidden, inner.lm_head.weight, labels)


def step(model: PeftModel, rows: Sequence[Tensor], device: str = "cpu") -> dict[str, Tensor]:
    """The loss of a pack, and the gradient of every parameter that learns, by name."""
    model.zero_grad()
    loss = loss_of(model, *packed(rows, device))
    loss.backward()  # type: ignore[no-untyped-call]
    found = {"loss": loss.detach()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            found[name] = parameter.grad.clone()
    return found
