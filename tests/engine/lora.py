"""Adapters made by PEFT itself, and what its own model computes with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

__all__ = ["IDS", "LINEAR", "logits", "make_adapter", "peft_logits"]

IDS = [1, 40, 41, 42, 77, 200, 5, 9]
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def base_model(checkpoint: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()


def make_adapter(checkpoint: Path, folder: Path, seed: int = 0, **options: Any) -> Path:
    """Save an adapter with random weights; options are PEFT's `LoraConfig`."""
    torch.manual_seed(seed)
    base = base_model(checkpoint)
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": LINEAR, **options})
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            moved = torch.randn_like(parameter) * 0.1
            parameter.data = parameter.data + moved if parameter.dim() == 1 else moved
    model.save_pretrained(folder)
    return folder


@torch.inference_mode()
def peft_logits(checkpoint: Path, folder: Path) -> Tensor:
    """[tokens, vocabulary] as PEFT computes them."""
    return logits(PeftModel.from_pretrained(base_model(checkpoint), str(folder)).eval())


@torch.inference_mode()
def logits(model: nn.Module) -> Tensor:
    return model(input_ids=torch.tensor([IDS]), use_cache=False).logits[0]
