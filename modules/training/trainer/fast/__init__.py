"""The fast path on cards: the layers of a Llama with LoRAs, forward and backward, by hand."""

from __future__ import annotations

import logging
from typing import Any

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from modules.engine.worker.kernels.checked import product_kernels
from modules.engine.worker.kernels.tiled_linear import use_tiles
from modules.training.trainer.fast.check import best_rows
from modules.training.trainer.fast.rows import RowKernels
from modules.training.trainer.fast.take_over import (
    keep_activations,
    layers_that_fit,
    take_over,
    unfit_to_train,
)

__all__ = ["accelerate_model", "keep_activations", "layers_that_fit"]

log = logging.getLogger(__name__)


def accelerate_model(model: nn.Module) -> str:
    """Swap in the fast path where it fits; says in words what was done, "" for nothing.

    `model` has its LoRA already. Its results stay the same within rounding.
    """
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(inner, PreTrainedModel) or inner.device.type != "cuda":
        return ""
    kernels = product_kernels(inner)
    if kernels is not None:
        use_tiles(inner.modules(), kernels)
    reason = unfit_to_train(inner) or _unfit_sizes(inner)
    if reason:
        log.info("The fast path does not serve this model: %s.", reason)
        return ""
    rows = best_rows(inner.dtype, inner.device)
    if not isinstance(rows, RowKernels):
        return ""
    layers = take_over(inner, rows)
    return f"{len(layers)} layers with kernels of Lantern's own"


def _unfit_sizes(model: PreTrainedModel) -> str:
    config: Any = model.config
    first: Any = model.get_decoder().layers[0]  # type: ignore[no-untyped-call]
    sizes = (config.hidden_size, config.intermediate_size, first.self_attn.head_dim)
    return "" if RowKernels.fits(*sizes) else "the kernels are not for its sizes"
