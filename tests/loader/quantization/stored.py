"""Checkpoints of every quantized format, made by a packer of the tests' own.

Written after the layouts that AutoGPTQ and AutoAWQ produce, bit by bit and on integers, so
that nothing is shared with what is tested.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

__all__ = [
    "Form",
    "awq",
    "quantized",
    "stream",
    "tiny_config",
    "write_quantized",
    "write_tokenizer",
]

_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class Form:
    """A format, in the words of the checkpoints' own settings."""

    method: str = "gptq"
    bits: int = 4
    group_size: int = 32
    symmetric: bool = True
    act_order: bool = False
    version: str = "v1"
    bias: bool = False

    def config(self) -> dict[str, object]:
        if self.method == "awq":
            return {
                "quant_method": "awq",
                "bits": 4,
                "group_size": self.group_size,
                "zero_point": not self.symmetric,
                "version": "gemm",
            }
        return {
            "quant_method": "gptq",
            "bits": self.bits,
            "group_size": self.group_size,
            "sym": self.symmetric,
            "desc_act": self.act_order,
            "checkpoint_format": "gptq_v2" if self.version == "v2" else "gptq",
        }


def stream(codes: Tensor, bits: int) -> Tensor:
    """Codes [n, m] packed down the first dimension, as one stream of bits in 32-bit words."""
    rows, columns = codes.shape
    words = torch.zeros(rows * bits // 32, columns, dtype=torch.int64)
    for row in range(rows):
        for bit in range(bits):
            place = row * bits + bit
            words[place // 32] |= ((codes[row].long() >> bit) & 1) << (place % 32)
    return torch.where(words >= 2**31, words - 2**32, words).int()


def awq(codes: Tensor) -> Tensor:
    """Codes [n, m] packed eight columns to a word in AutoAWQ's order."""
    words = torch.zeros(codes.shape[0], codes.shape[1] // 8, dtype=torch.int64)
    for place, column in enumerate(_AWQ_ORDER):
        words |= codes[:, column::8].long() << (4 * place)
    return torch.where(words >= 2**31, words - 2**32, words).int()


def quantized(weight: Tensor, form: Form, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """The stored tensors of a layer [out, in], and the weights in float32 that they stand for."""
    generator = torch.Generator().manual_seed(seed)
    inputs = weight.shape[1]
    size = inputs if form.group_size == -1 else form.group_size
    g_idx = torch.arange(inputs) // size
    if form.act_order:
        g_idx = g_idx[torch.randperm(inputs, generator=generator)]
    groups = int(g_idx.max()) + 1
    scales, zeros = torch.empty(groups, len(weight)), torch.empty(groups, len(weight))
    top = 2**form.bits - 1
    for group in range(groups):
        part = weight[:, g_idx == group]
        if form.symmetric:
            scales[group] = part.abs().amax(1) / (2 ** (form.bits - 1))
            zeros[group] = 2 ** (form.bits - 1)
        else:
            low, high = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
            scales[group] = (high - low) / top
            # v1 cannot store a zero point of 0.
            zeros[group] = (-low / scales[group]).round().clamp(form.version == "v1", top)
    scales = scales.half()
    exact = scales.float()[g_idx].t()
    codes = (weight / exact + zeros[g_idx].t()).round().clamp(0, top)
    meant = (codes - zeros[g_idx].t()) * exact
    return _stored(codes.int(), zeros.int(), scales, g_idx, form), meant


def _stored(
    codes: Tensor, zeros: Tensor, scales: Tensor, g_idx: Tensor, form: Form
) -> dict[str, Tensor]:
    if form.method == "awq":
        return {"qweight": awq(codes.t()), "qzeros": awq(zeros), "scales": scales}
    kept = zeros - 1 if form.version == "v1" else zeros
    return {
        "qweight": stream(codes.t(), form.bits),
        "qzeros": stream(kept.t(), form.bits).t().contiguous(),
        "scales": scales,
        "g_idx": g_idx.int(),
    }


def tiny_config(**changes: object) -> LlamaConfig:
    """A Llama of two layers whose sizes divide by every group and every packing."""
    values: dict[str, object] = {
        "vocab_size": 320,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
    }
    return LlamaConfig(**(values | changes))


def write_quantized(folder: Path, form: Form, tokenizer: Path) -> LlamaForCausalLM:
    """Write a checkpoint of `form` into `folder`; returns its float32 reference."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(tiny_config(attention_bias=form.bias)).half().float().eval()
    tensors = {}
    layers = {
        name
        for name, module in model.model.named_modules(prefix="model")
        if isinstance(module, torch.nn.Linear)
    }
    for seed, name in enumerate(sorted(layers)):
        layer = model.get_submodule(name)
        if layer.bias is not None:
            torch.nn.init.normal_(layer.bias)
            layer.bias.data = layer.bias.data.half().float()
        stored, meant = quantized(layer.weight.data, form, seed)
        layer.weight.data = meant
        tensors |= {f"{name}.{part}": tensor for part, tensor in stored.items()}
    for name, tensor in model.state_dict().items():
        if name.removesuffix(".weight") not in layers:
            tensors[name] = tensor.half().contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict() | {"torch_dtype": "float16", "dtype": "float16"}
    config |= {"quantization_config": form.config(), "architectures": ["LlamaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    for file in tokenizer.glob("token*"):
        shutil.copy(file, folder)
    return model


def write_tokenizer(folder: Path) -> Path:
    """A tokenizer that a checkpoint needs in order to load; nothing is encoded with it."""
    vocabulary = {"<unk>": 0} | {chr(33 + n): n + 1 for n in range(90)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    return folder
