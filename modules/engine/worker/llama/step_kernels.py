"""`StepKernels`: what a step on a card computes beside products, if it computes it rightly."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from modules.engine.worker.kernels.attention import DecodeAttention, attend_reference
from modules.engine.worker.kernels.rows import HeadShape, Places, RowKernels, TorchRows
from modules.engine.worker.llama.paged_cache import PagedCache
from modules.engine.worker.llama.shape import Shape, cos_sin, decoder_of

__all__ = ["StepKernels", "step_kernels"]

log = logging.getLogger(__name__)

_ROWS = 3
_OFF = 0.02
"""What a kernel may be off from its reference, relative; rounding is a tenth of that."""


@dataclass(frozen=True, slots=True, eq=False)
class StepKernels:
    """Attention, and what is computed row by row."""

    attention: DecodeAttention
    rows: RowKernels


def step_kernels(
    model: PreTrainedModel, shape: Shape, most: int, *, int8: bool = False
) -> StepKernels | None:
    """Those for steps of up to `most` rows; None where plain torch has to do.

    With `int8` attention is over a cache in 8 bits. A kernel that does not compile, or is off from
    its reference, is named in a warning.
    """
    heads = (shape.heads, shape.kv_heads, shape.head_dim)
    middle, device = int(model.config.intermediate_size), model.device
    if not DecodeAttention.fits(*heads, model.dtype, device) or not RowKernels.fits(
        shape.hidden, middle, shape.head_dim, model.dtype, device
    ):
        return None
    name = "attention"
    try:
        attention = DecodeAttention(*heads, model.dtype, device, most, int8)
        name = "rows"
        found = StepKernels(attention, RowKernels(model.dtype, device))
        for name, off in _compared(found, model, shape, int8):  # noqa: B007 - who it was, below
            if not off < _OFF:
                raise RuntimeError(f"it is off by {off:.1e}")
    except (RuntimeError, OSError) as error:
        log.warning("The kernel `%s` cannot be used, so replies are slow: %s", name, error)
        return None
    return found


@torch.inference_mode()
def _compared(
    kernels: StepKernels, model: PreTrainedModel, shape: Shape, int8: bool
) -> Iterator[tuple[str, float]]:
    """For each kernel its name, and how far it is off from plain torch on a few rows, relative."""
    device, dtype = model.device, model.dtype
    made = torch.Generator(device).manual_seed(0)

    def some(columns: int) -> Tensor:
        return torch.randn(_ROWS, columns, generator=made, device=device).to(dtype)

    x, delta, weight = some(shape.hidden), some(shape.hidden), decoder_of(model).norm.weight
    gate_up = some(2 * int(model.config.intermediate_size))
    numbers = torch.arange(_ROWS, dtype=torch.int32, device=device)
    heads = HeadShape(shape.heads, shape.kv_heads, shape.head_dim)
    qkv = some((shape.heads + 2 * shape.kv_heads) * shape.head_dim)
    places = Places(cos_sin(model, _ROWS, device), numbers, numbers)
    with device:
        caches = [PagedCache.empty(replace(shape, layers=1), 1, dtype, int8=int8) for _ in range(2)]
    (keys, values), (plain_keys, plain_values) = (cache.layers[0] for cache in caches)
    rows, plain = kernels.rows, TorchRows()
    normed = rows.rms_norm(x, weight, shape.eps)
    yield "rows", _off(normed, plain.rms_norm(x, weight, shape.eps))
    added = rows.add_rms_norm(x.clone(), delta, weight, shape.eps)
    yield "rows", _off(added, plain.add_rms_norm(x.clone(), delta, weight, shape.eps))
    yield "rows", _off(rows.swiglu(gate_up, False), plain.swiglu(gate_up, False))
    q = rows.rope_into_cache(qkv, heads, places, keys, values)
    meant = plain.rope_into_cache(qkv, heads, places, plain_keys, plain_values)
    yield "rows", _off(q, meant)
    tables, lengths = numbers.new_zeros(_ROWS, 1), numbers + 1
    attended = kernels.attention(q, keys, values, tables, lengths)
    scale = shape.head_dim**-0.5
    attended_plainly = attend_reference(meant, plain_keys, plain_values, tables, lengths, scale)
    yield "attention", _off(attended, attended_plainly)


def _off(found: Tensor, meant: Tensor) -> float:
    return float((found.float() - meant.float()).norm() / meant.float().norm())
