"""What a Llama layer computes row by row in training: one kernel each way, or plain torch.

Each kernel of rows.cu has its formula here as a method of `TorchRows`, which serves any device
and dtype and is what the kernels are held against. Where transformers rounds a number on the way,
so do both. All are without autograd: layer.py calls forward and backward itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from modules.engine.worker.kernels import rows as engine_rows
from modules.engine.worker.kernels.launch import Kernel

__all__ = ["RowKernels", "Rows", "TorchRows"]

_SOURCE = Path(__file__).with_name("rows.cu")
_SHARED_SOURCE = Path(engine_rows.__file__).with_name("rows.cu")
_EIGHT = 8
_THREADS = 256
_MOST_THREADS = 512
_MOST_EIGHTS = 8


class Rows(Protocol):
    """Forward and backward of what is computed row by row.

    x, h, dy and the like are [tokens, features], contiguous but for what `out` and `rest` are: they
    may be the first columns of something wider. What has an `out` returns it.
    """

    def norm(self, x: Tensor, weight: Tensor, eps: float, out: Tensor) -> Tensor:
        """x / rms(x) * weight, as an RMSNorm has it."""

    def add_norm(
        self, x: Tensor, delta: Tensor, weight: Tensor, eps: float, out: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x + delta, and its norm."""

    def norm_backward(
        self, x: Tensor, weight: Tensor, dy: Tensor, rest: Tensor, eps: float, out: Tensor
    ) -> Tensor:
        """The gradient of x from that of its norm, plus `rest`: Zhang and Sennrich 2019.

        What `norm` gave is written over `dy`.
        """

    def turn(self, qkv: Tensor, cos: Tensor, sin: Tensor, turning: int) -> None:
        """The rotary embedding of the first `turning` heads of `qkv`, in place.

        `cos` and `sin` are [tokens, head_dim], with the same in both halves.
        """

    def turn_backward(
        self, grads: tuple[Tensor, Tensor, Tensor], cos: Tensor, sin: Tensor, out: Tensor
    ) -> Tensor:
        """That of qkv, from those of q, k and v [tokens, heads, head_dim]."""

    def gate(self, gate_up: Tensor, out: Tensor) -> Tensor:
        """silu(gate) * up; `gate_up` has the gates first."""

    def gate_backward(self, gate_up: Tensor, dy: Tensor, out: Tensor) -> Tensor:
        """That of gate_up. What `gate` gave is written over `dy`."""

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The losses [tokens] in float32; the gradient of their sum is written over `logits`.

        `logits` may be the first columns of something wider; `labels` are int64 [tokens].
        """


class TorchRows:
    """`Rows` in plain torch."""

    def norm(self, x: Tensor, weight: Tensor, eps: float, out: Tensor) -> Tensor:
        """See `Rows.norm`."""
        return out.copy_(engine_rows.rms_norm_reference(x, weight, eps))

    def add_norm(
        self, x: Tensor, delta: Tensor, weight: Tensor, eps: float, out: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `Rows.add_norm`."""
        h = x + delta
        return h, self.norm(h, weight, eps, out)

    def norm_backward(
        self, x: Tensor, weight: Tensor, dy: Tensor, rest: Tensor, eps: float, out: Tensor
    ) -> Tensor:
        """See `Rows.norm_backward`."""
        wide, grad = _wide(x), _wide(dy) * _wide(weight)
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        along = (grad * wide).mean(-1, keepdim=True) * scale.square()
        self.norm(x, weight, eps, dy)
        return out.copy_(scale * (grad - wide * along) + rest)

    def turn(self, qkv: Tensor, cos: Tensor, sin: Tensor, turning: int) -> None:
        """See `Rows.turn`."""
        dim = cos.shape[-1]
        heads = qkv[:, : turning * dim].view(len(qkv), turning, dim)
        low, high = _wide(heads).chunk(2, -1)
        cosines, sines = (_wide(part[:, None, : dim // 2]) for part in (cos, sin))
        turned = low * cosines - high * sines, high * cosines + low * sines
        heads.copy_(torch.cat(turned, -1))

    def turn_backward(
        self, grads: tuple[Tensor, Tensor, Tensor], cos: Tensor, sin: Tensor, out: Tensor
    ) -> Tensor:
        """See `Rows.turn_backward`."""
        both = torch.cat(grads[:2], 1).flatten(1)
        self.turn(both, cos, -sin, grads[0].shape[1] + grads[1].shape[1])
        return out.copy_(torch.cat((both, grads[2].flatten(1)), 1))

    def gate(self, gate_up: Tensor, out: Tensor) -> Tensor:
        """See `Rows.gate`."""
        gates, ups = gate_up.chunk(2, -1)
        return torch.mul(functional.silu(gates), ups, out=out)

    def gate_backward(self, gate_up: Tensor, dy: Tensor, out: Tensor) -> Tensor:
        """See `Rows.gate_backward`."""
        gates, ups = (_wide(half) for half in gate_up.chunk(2, -1))
        outer, opened = _wide(dy), gates.sigmoid()
        of_gate = outer * ups * opened * (1 + gates * (1 - opened))
        out.copy_(torch.cat((of_gate, outer * gates * opened), -1))
        self.gate(gate_up, dy)
        return out

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See `Rows.cross_entropy`."""
        logs = torch.log_softmax(_wide(logits), -1)
        losses = -logs.gather(1, labels[:, None]).squeeze(1)
        gradient = logs.exp_()
        gradient.scatter_add_(1, labels[:, None], gradient.new_full((len(labels), 1), -1.0))
        logits.copy_(gradient)
        return losses.float()


class RowKernels:
    """`Rows` on a card, for one dtype; a kernel is compiled when it is first wanted.

    Methods raise RuntimeError or OSError where a kernel cannot be compiled.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._bfloat = int(dtype == torch.bfloat16)
        self._device = device
        self._compiled: dict[tuple[str, tuple[int, ...]], Kernel] = {}

    @staticmethod
    def fits(hidden: int, middle: int, head_dim: int) -> bool:
        """Whether the kernels serve a model of these sizes, on a card of Ampere or later."""
        return (
            hidden % _EIGHT == 0
            and hidden <= _EIGHT * _MOST_EIGHTS * _MOST_THREADS
            and middle % _EIGHT == 0
            and head_dim % (2 * _EIGHT) == 0
        )

    def norm(self, x: Tensor, weight: Tensor, eps: float, out: Tensor) -> Tensor:
        """See `Rows.norm`."""
        tensors = (x, x, weight, x, out)  # nothing is added
        self._of_rows("add_norm", x, tensors, (out.stride(0),), eps)
        return out

    def add_norm(
        self, x: Tensor, delta: Tensor, weight: Tensor, eps: float, out: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `Rows.add_norm`."""
        h = torch.empty_like(x)
        self._of_rows("add_norm", x, (x, delta, weight, h, out), (out.stride(0),), eps, added=1)
        return h, out

    def norm_backward(
        self, x: Tensor, weight: Tensor, dy: Tensor, rest: Tensor, eps: float, out: Tensor
    ) -> Tensor:
        """See `Rows.norm_backward`."""
        pitches = (rest.stride(0), out.stride(0))
        self._of_rows("norm_backward", x, (x, weight, dy, rest, out), pitches, eps)
        return out

    def turn(self, qkv: Tensor, cos: Tensor, sin: Tensor, turning: int) -> None:
        """See `Rows.turn`."""
        dim = cos.shape[-1]
        kernel = self._kernel("turn", HEAD=dim)
        grid = (len(qkv), _blocks(turning * dim // (2 * _EIGHT)), 1)
        kernel.launch(grid, _THREADS, qkv, cos, sin, turning, qkv.stride(0))

    def turn_backward(
        self, grads: tuple[Tensor, Tensor, Tensor], cos: Tensor, sin: Tensor, out: Tensor
    ) -> Tensor:
        """See `Rows.turn_backward`."""
        rows, heads, dim = grads[0].shape
        kv_heads = grads[1].shape[1]
        kernel = self._kernel("turn_backward", HEAD=dim)
        grid = (rows, _blocks((heads + 2 * kv_heads) * dim // (2 * _EIGHT)), 1)
        kernel.launch(grid, _THREADS, *grads, cos, sin, out, heads, kv_heads, out.stride(0))
        return out

    def gate(self, gate_up: Tensor, out: Tensor) -> Tensor:
        """See `Rows.gate`."""
        middle = gate_up.shape[1] // 2
        grid = (len(gate_up), _blocks(middle // _EIGHT), 1)
        self._kernel("gate").launch(grid, _THREADS, gate_up, out, middle, out.stride(0))
        return out

    def gate_backward(self, gate_up: Tensor, dy: Tensor, out: Tensor) -> Tensor:
        """See `Rows.gate_backward`."""
        middle = gate_up.shape[1] // 2
        grid = (len(gate_up), _blocks(middle // _EIGHT), 1)
        kernel = self._kernel("gate_backward")
        kernel.launch(grid, _THREADS, gate_up, dy, out, middle, out.stride(0))
        return out

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See `Rows.cross_entropy`; the rows of `logits` must be a multiple of 8 apart."""
        losses = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
        kernel = self._kernel("cross_entropy")
        sizes = (logits.shape[1], logits.stride(0))
        kernel.launch((len(logits), 1, 1), _MOST_THREADS, logits, labels, losses, *sizes)
        return losses

    def _of_rows(
        self,
        name: str,
        x: Tensor,
        tensors: tuple[Tensor, ...],
        pitches: tuple[int, ...],
        eps: float,
        *,
        added: int = 0,
    ) -> None:
        """A kernel with a block for each row."""
        hidden = x.shape[1]
        eights = hidden // _EIGHT
        each = -(-eights // _MOST_THREADS)
        threads = -(-eights // (each * 32)) * 32
        kernel = self._kernel(name, EIGHTS=each, ADDED=added)
        kernel.launch((len(x), 1, 1), threads, *tensors, hidden, *pitches, float(eps))

    def _kernel(self, name: str, **defines: int) -> Kernel:
        key = name, tuple(defines.values())
        if key not in self._compiled:
            source = "\n".join(path.read_text(encoding="utf-8") for path in _SOURCES)
            defines["BFLOAT"] = self._bfloat
            self._compiled[key] = Kernel(source, name, self._device, defines)
        return self._compiled[key]


_SOURCES = (_SHARED_SOURCE, _SOURCE)


def _blocks(units: int) -> int:
    return -(-units // _THREADS)


def _wide(tensor: Tensor) -> Tensor:
    """At least float32."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
