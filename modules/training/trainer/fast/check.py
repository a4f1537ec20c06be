"""Whether the kernels compute what they should on this card, before a run relies on them."""

from __future__ import annotations

import functools
import logging

import torch
from torch import Tensor

from modules.training.trainer.fast.rows import RowKernels, Rows, TorchRows

__all__ = ["best_rows", "outputs"]

log = logging.getLogger(__name__)

_OFF = 0.02
"""What a result may be off from plain torch, relative; rounding is a third of that."""


@functools.cache
def best_rows(dtype: torch.dtype, device: torch.device) -> Rows:
    """The kernels, where the card has them and they compute what they should; else plain torch."""
    fits = (
        device.type == "cuda"
        and dtype in (torch.float16, torch.bfloat16)
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )
    if fits:
        kernels = RowKernels(dtype, device)
        if _work(kernels, dtype, device):
            return kernels
    return TorchRows()


def _work(kernels: RowKernels, dtype: torch.dtype, device: torch.device) -> bool:
    """Try every kernel on random numbers; a warning says what is wrong."""
    try:
        found, meant = (outputs(rows, dtype, device) for rows in (kernels, TorchRows()))
    except (RuntimeError, OSError) as error:
        log.warning("The kernels for training cannot be used, so it is slower: %s", error)
        return False
    for name, tensor in found.items():
        wanted = meant[name].float()
        off = float((tensor.float() - wanted).norm() / wanted.norm())
        if not off < _OFF:
            log.warning("The kernel for %s is off by %.1e; training is slower.", name, off)
            return False
    return True


def outputs(
    rows: Rows, dtype: torch.dtype, device: torch.device, *, width: int = 512, dim: int = 64
) -> dict[str, Tensor]:
    """What each method of `rows` makes of the same random numbers, by its name.

    `width` is that of a row, and `dim` that of a head.
    """
    made = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=made, device=device).to(dtype)

    def room(columns: int) -> Tensor:
        pitch = -(-columns // 8) * 8 + 64  # as the kernels want rows apart
        return torch.zeros(count, pitch, dtype=dtype, device=device)[:, :columns]

    count, eps = 5, 1e-5
    x, delta, dy, weight = *(random(count, width) for _ in range(3)), random(width)
    found = {"norm": rows.norm(x, weight, eps, room(width))}
    found["sum"], found["norm of a sum"] = rows.add_norm(x, delta, weight, eps, room(width))
    rest = room(width).copy_(delta)
    found["gradient of a norm"] = rows.norm_backward(x, weight, dy, rest, eps, room(width))
    found["norm again"] = dy
    cos, sin = (random(count, dim // 2).repeat(1, 2) for _ in range(2))
    qkv = random(count, 7 * dim)
    rows.turn(qkv, cos, sin, 5)
    found["rotary embedding"] = qkv
    grads = random(count, 3, dim), random(count, 2, dim), random(count, 2, dim)
    turned = rows.turn_backward(grads, cos, sin, room(7 * dim))
    found["gradient of the rotary embedding"] = turned
    gate_up, outer = random(count, 2 * width), random(count, width)
    found["gate"] = rows.gate(gate_up, room(width))
    found["gradient of the gate"] = rows.gate_backward(gate_up, outer, room(2 * width))
    found["gate again"] = outer
    logits = room(1003).copy_(random(count, 1003))
    labels = torch.randint(0, 1003, (count,), generator=made, device=device)
    found["cross entropy"] = rows.cross_entropy(logits, labels)
    found["gradient of the cross entropy"] = logits
    return found
