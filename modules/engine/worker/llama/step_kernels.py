"""`StepKernels`: what a step on a card computes beside products, if it compiles there."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from modules.engine.worker.kernels.attention import DecodeAttention
from modules.engine.worker.kernels.rows import RowKernels
from modules.engine.worker.llama.shape import Shape

__all__ = ["StepKernels", "step_kernels"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class StepKernels:
    """Attention, and what is computed row by row."""

    attention: DecodeAttention
    rows: RowKernels


def step_kernels(model: PreTrainedModel, shape: Shape, most: int) -> StepKernels | None:
    """Those for steps of up to `most` rows; None where plain torch has to do.

    One that does not compile is named in a warning.
    """
    heads = (shape.heads, shape.kv_heads, shape.head_dim)
    middle, device = int(model.config.intermediate_size), model.device
    if not DecodeAttention.fits(*heads, model.dtype, device) or not RowKernels.fits(
        shape.hidden, middle, shape.head_dim, model.dtype, device
    ):
        return None
    name = "attention"
    try:
        attention = DecodeAttention(*heads, model.dtype, device, most)
        name = "rows"
        rows = RowKernels(model.dtype, device)
        # One that a model does not need costs a fraction of a second, once.
        x = torch.zeros(1, shape.hidden, dtype=model.dtype, device=device)
        rows.rms_norm(x, x[0], shape.eps)
        rows.add_rms_norm(x, x, x[0], shape.eps)
    except (RuntimeError, OSError) as error:
        log.warning("The kernel `%s` cannot be used, so replies are slow: %s", name, error)
        return None
    return StepKernels(attention, rows)
