"""What benchmarks.training trains: random Llamas with a LoRA, and rows of drawn lengths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.random_checkpoint import SIZES
from modules.loader.quantization.format import LOAD_4BIT
from modules.loader.quantization.linear import QuantizedLinear
from modules.training.config import TARGETS
from modules.training.packing import IGNORED, pack

__all__ = ["Batch", "drawn_lengths", "make_model", "packs", "padded", "rows_of_one_length"]

RANK = 16
MEAN, SPREAD, LEAST, MOST = 130, 0.8, 16, 1024
"""Of the lengths of rows: those of Alpaca are near a log-normal distribution with such a mean."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What the model is called with, the labels, and the tokens that are no padding."""

    about: dict[str, Any]
    labels: Tensor
    real: int


def drawn_lengths(count: int) -> list[int]:
    """Lengths of rows, the same in every run."""
    made = torch.Generator().manual_seed(0)
    middle = math.log(MEAN) - SPREAD**2 / 2
    drawn = torch.randn(count, generator=made).mul_(SPREAD).add_(middle).exp_()
    found: list[int] = drawn.round_().clamp_(LEAST, MOST).int().tolist()
    return found


def packs(lengths: Sequence[int], capacity: int, vocabulary: int, device: str) -> list[Batch]:
    """Packs as the trainer makes them, but for the last, which may be half empty."""
    found = pack(lengths, capacity)
    return [
        _packed([lengths[place] for place in places], vocabulary, device) for places in found[:-1]
    ]


def rows_of_one_length(length: int, count: int, vocabulary: int, device: str) -> Batch:
    """Full rows, which need no packing."""
    return _packed([length] * count, vocabulary, device)


def padded(lengths: Sequence[int], size: int, vocabulary: int, device: str) -> list[Batch]:
    """The same rows, in batches of `size` padded to the longest of each."""
    found = []
    for first in range(0, len(lengths) - size + 1, size):
        own = lengths[first : first + size]
        longest = max(own)
        ids = torch.randint(0, vocabulary, (size, longest))
        mask = torch.arange(longest)[None] < torch.tensor(own)[:, None]
        labels = ids.masked_fill(~mask, IGNORED).to(device)
        about = {"input_ids": ids.to(device), "attention_mask": mask.long().to(device)}
        found.append(Batch(about | {"use_cache": False}, labels, sum(own)))
    return found


def _packed(lengths: Sequence[int], vocabulary: int, device: str) -> Batch:
    total = sum(lengths)
    ids = torch.randint(0, vocabulary, (1, total))
    ends = torch.tensor([0, *lengths]).cumsum(0)
    labels = ids.clone()
    labels[:, ends[:-1]] = IGNORED
    about = {
        "input_ids": ids.to(device),
        "position_ids": torch.cat([torch.arange(n) for n in lengths])[None].to(device),
        "cu_seqlens": ends.int().to(device),
        "max_seqlen": max(lengths),
        "use_cache": False,
    }
    return Batch(about, labels.to(device), total)


class _OverPacked(LoraLinear):
    """PEFT's layer over a packed one."""


def make_model(size: str, dtype: torch.dtype, device: str, *, packed: bool = False) -> PeftModel:
    """A Llama of random weights, in 4 bits where `packed`, and a LoRA that changes it a little."""
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES[size], max_position_embeddings=4096, rms_norm_eps=1e-5)
    with torch.device("meta" if packed else device):
        model: Any = LlamaForCausalLM._from_config(config, dtype=dtype)
    if packed:
        _pack(model, dtype, device)
    about = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules=list(TARGETS["all"]), task_type="CAUSAL_LM"
    )
    about._register_custom_module({QuantizedLinear: _OverPacked})
    made = get_peft_model(model, about)
    assert isinstance(made, PeftModel)
    for name, parameter in made.named_parameters():
        if ".lora_" in name:
            nn.init.normal_(parameter, std=0.02)
    return made


def _pack(model: Any, dtype: torch.dtype, device: str) -> None:
    """Fill a model without memory: its layers with random codes, the others with weights."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and name.endswith(TARGETS["all"]):
            model.set_submodule(name, _random_layer(layer.in_features, layer.out_features, device))
        elif isinstance(layer, nn.Linear | nn.Embedding):
            weight = torch.randn(layer.weight.shape, dtype=dtype, device=device) * 0.02
            layer.weight = nn.Parameter(weight, requires_grad=False)
        elif type(layer).__name__ == "LlamaRMSNorm":
            layer.weight = nn.Parameter(torch.ones_like(layer.weight, device=device))
    with torch.device(device):
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config)


def _random_layer(inputs: int, outputs: int, device: str) -> QuantizedLinear:
    form = LOAD_4BIT
    with torch.device(device):
        layer = QuantizedLinear(inputs, outputs, bits=form.bits, group_size=form.group_size)
    layer.weight.data.random_(0, 256)
    layer.scales.data.fill_(0.004)
    assert layer.zeros is not None
    layer.zeros.data.uniform_(7, 8)
    layer.perm = None
    return layer
