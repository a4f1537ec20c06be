"""`Base`: the model that a LoRA is trained on, as it lies in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from modules.loader.checkpoint import check_checkpoint
from modules.loader.options import LoadOptions
from modules.loader.quantization.linear import QuantizedLinear
from modules.loader.transformers_loader import LoadedModel, load
from modules.training.config import TrainingConfig

__all__ = ["Base", "dequantize_once", "load_base", "load_options"]


@dataclass(frozen=True, slots=True)
class Base:
    """A frozen model on one device. `dtype` is what is computed in, `how` says it in words."""

    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    dtype: torch.dtype
    how: str


def load_base(
    folder: Path,
    config: TrainingConfig,
    device: torch.device,
    progress: Callable[[str, float], None],
    *,
    once: bool = True,
    aside: bool = False,
) -> Base:
    """Load what lies in `folder`, after every check that the chat's models pass.

    `once` dequantizes a quantized base as a whole. `aside` leaves it in the processor's memory,
    in the numbers that `device` computes in. Raises ModelError in its kinds.
    """
    dtype, options = _dtype(config.precision, device), load_options(config, device)
    check_checkpoint(folder, options)
    loaded = load(folder, progress, options, placement={"": "cpu" if aside else str(device)})
    how = _settle(loaded, dtype, once=once)
    return Base(folder, loaded.model, loaded.tokenizer, dtype, how)


def load_options(config: TrainingConfig, device: torch.device) -> LoadOptions:
    """How the base is to be loaded; never the shortcut by which the chat computes in 4 bits."""
    return LoadOptions(
        device="cpu" if device.type == "cpu" else "auto",
        dtype=cast(Any, str(_dtype(config.precision, device)).removeprefix("torch.")),
        quantize=cast(Any, config.load_in.replace("as it is", "none")),
    )


def _dtype(precision: str, device: torch.device) -> torch.dtype:
    if precision == "automatic":
        if device.type == "cpu":
            return torch.float32
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if bf16 else torch.float16
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]


def _settle(loaded: LoadedModel, dtype: torch.dtype, *, once: bool) -> str:
    """Dequantize the model if it is to be; how it is held, in words."""
    name = str(dtype).removeprefix("torch.")
    layers = [m for m in loaded.model.modules() if isinstance(m, QuantizedLinear)]
    if not layers:
        return name
    stored = loaded.inspection.quantization
    words = stored.words if stored else f"{layers[0].bits}-bit"
    if not once:
        return f"{words}, dequantized layer by layer to {name}"
    dequantize_once(loaded.model, dtype)
    return f"{words}, dequantized once to {name}"


def dequantize_once(model: nn.Module, dtype: torch.dtype) -> None:
    """Put a plain linear layer in the place of every quantized one, one after another."""
    found = [(n, m) for n, m in model.named_modules() if isinstance(m, QuantizedLinear)]
    while found:
        name, layer = found.pop()
        model.set_submodule(name, _plain(layer, dtype))


def _plain(layer: QuantizedLinear, dtype: torch.dtype) -> nn.Linear:
    plain = nn.Linear(
        layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta"
    )
    plain.weight = nn.Parameter(layer.dequantize(dtype), requires_grad=False)
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.to(dtype), requires_grad=False)
    return plain
