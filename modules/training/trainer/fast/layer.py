"""`FastLayer`: a decoder layer of a Llama with LoRAs, its forward and its backward by hand.

Autograd would keep every tensor between two kernels. This keeps the input of the layer, what comes
out of the two wide products and the attention, and computes again what a kernel makes of them on
the way (norms and gates); with checkpointing, it keeps the input alone. A layer of width d and
middle m, with as many heads for keys as for queries, keeps 6 d + 2 m numbers a token, or d.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from modules.training.trainer.attention import Rows as PackRows
from modules.training.trainer.attention import attend_backward, attend_forward
from modules.training.trainer.fast.products import Lora, Product
from modules.training.trainer.fast.rows import Rows

__all__ = ["FastLayer", "Heads", "Norms", "Places", "fast_norm"]


@dataclass(frozen=True, slots=True, eq=False)
class Heads:
    """The heads of a layer; where queries and keys are normalised (Qwen3), by which weights."""

    heads: int
    kv_heads: int
    dim: int
    scale: float
    window: int = 0
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None

    @property
    def turning(self) -> int:
        """Heads of queries and keys."""
        return self.heads + self.kv_heads

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values as views [tokens, heads, dim] of their product."""
        parts = qkv.view(len(qkv), self.turning + self.kv_heads, self.dim)
        q, k, v = torch.split(parts, [self.heads, self.kv_heads, self.kv_heads], 1)
        return q, k, v


@dataclass(frozen=True, slots=True, eq=False)
class Norms:
    """The weights of the norms before the attention and before the MLP."""

    before_attention: Tensor
    before_mlp: Tensor
    eps: float


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where tokens stand: cosines and sines [tokens, dim], and the rows that they are of."""

    cos: Tensor
    sin: Tensor
    rows: PackRows


class _Kept(NamedTuple):
    """What a backward needs of a forward.

    `qkv` is as the product gave it where heads are normalised, else turned; `mixed` is what the
    attention gave, `middle` the residual between the halves, and the narrow ones are what the
    LoRAs took of the inputs of their products.
    """

    qkv: Tensor
    mixed: Tensor
    lse: Tensor
    middle: Tensor
    gate_up: Tensor
    narrow_qkv: Tensor
    narrow_o: Tensor
    narrow_gate_up: Tensor
    narrow_down: Tensor | None = None


class FastLayer:
    """One decoder layer. Calling it gives the residual after it.

    `keeps` says that what the backward needs is kept even where a call asks for checkpointing.
    """

    def __init__(
        self,
        products: tuple[Product, Product, Product, Product],
        heads: Heads,
        norms: Norms,
        rows: Rows,
    ) -> None:
        self.qkv, self.o, self.gate_up, self.down = products
        self.heads, self.norms, self.rows = heads, norms, rows
        self.keeps = False

    @property
    def products(self) -> tuple[Product, Product, Product, Product]:
        """In the order of the forward."""
        return self.qkv, self.o, self.gate_up, self.down

    @property
    def loras(self) -> Iterator[Lora]:
        """In the order in which the gradients are given."""
        return (lora for product in self.products for lora in product.loras)

    @property
    def kept_bytes(self) -> int:
        """What keeping takes beyond the input of the layer, in bytes a token."""
        numbers = self.qkv.outputs + self.o.inputs + self.o.outputs + self.gate_up.outputs
        narrow = sum(product.columns for product in self.products)
        size = self.norms.before_mlp.element_size()
        return (numbers + narrow) * size + 4 * self.heads.heads

    def __call__(self, h: Tensor, places: Places, *, checkpoint: bool) -> Tensor:
        """h [tokens, width] after the layer; with `checkpoint`, its input alone is kept."""
        parameters = [tensor for lora in self.loras for tensor in (lora.a, lora.b)]
        keep = self.keeps or not checkpoint
        result: Tensor = _Layer.apply(h, self, places, keep, *parameters)  # type: ignore[no-untyped-call]
        return result

    def halves(self, h: Tensor, places: Places) -> _Kept:
        """The forward up to the product of gate and up."""
        eps, count = self.norms.eps, len(h)
        x = self.qkv.room(count)
        self.rows.norm(h, self.norms.before_attention, eps, x[:, : self.qkv.inputs])
        qkv = self.qkv.forward(x)
        turned = self._turned(qkv, places)
        mixed, lse = attend_forward(*self.heads.split(turned), places.rows, self.heads.scale)
        del turned
        mixed = mixed.view(count, -1)
        z = self.o.room(count)
        z[:, : self.o.inputs].copy_(mixed)
        y = self.gate_up.room(count)
        middle, _ = self.rows.add_norm(
            h, self.o.forward(z), self.norms.before_mlp, eps, y[:, : self.gate_up.inputs]
        )
        gate_up = self.gate_up.forward(y)
        # Small; as views they would keep the wide ones alive.
        narrow = (
            x[:, self.qkv.inputs :].contiguous(),
            z[:, self.o.inputs :].contiguous(),
            y[:, self.gate_up.inputs :].contiguous(),
        )
        return _Kept(qkv, mixed, lse, middle, gate_up, *narrow)

    def gated(self, gate_up: Tensor) -> Tensor:
        """The input of the last product, in its room."""
        x = self.down.room(len(gate_up))
        self.rows.gate(gate_up, x[:, : self.down.inputs])
        return x

    def backward(
        self, h: Tensor, dh: Tensor, kept: _Kept, places: Places, *, wanted: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """The gradient of h, if it is wanted, and those of the LoRAs; dh that of the result."""
        dy, of_mlp = self._mlp_backward(dh, kept)
        dqkv, of_o = self._attention_backward(dy, kept, places)
        weight, eps = self.norms.before_attention, self.norms.eps
        x, result = self.qkv.backward(dqkv, wanted=wanted), None
        if x is None:
            x = self.rows.norm(h, weight, eps, torch.empty_like(h))
        else:
            past = dy[:, : self.o.outputs]
            result = self.rows.norm_backward(h, weight, x, past, eps, torch.empty_like(h))
        return result, [*self.qkv.gradients(dqkv, x, kept.narrow_qkv), *of_o, *of_mlp]

    def _mlp_backward(self, dh: Tensor, kept: _Kept) -> tuple[Tensor, list[Tensor]]:
        """The gradient of the residual before the MLP, in a room, and those of its LoRAs."""
        dy = self.down.room_for_gradient(len(dh))
        dy[:, : self.down.outputs].copy_(dh)
        gated = self.down.backward(dy)
        assert gated is not None
        grads = self.gate_up.room_for_gradient(len(dh))
        # From here on, `gated` is what the gate gave, and no longer its gradient.
        self.rows.gate_backward(kept.gate_up, gated, grads[:, : self.gate_up.outputs])
        narrow = self.down.narrow(gated) if kept.narrow_down is None else kept.narrow_down
        of_down = self.down.gradients(dy, gated, narrow)
        del dy, gated
        x = self.gate_up.backward(grads)
        assert x is not None
        result = self.o.room_for_gradient(len(dh))
        # And `x` is the gradient of the norm before this line, and what it gave after it.
        self.rows.norm_backward(
            kept.middle, self.norms.before_mlp, x, dh, self.norms.eps, result[:, : self.o.outputs]
        )
        return result, [*self.gate_up.gradients(grads, x, kept.narrow_gate_up), *of_down]

    def _attention_backward(
        self, dy: Tensor, kept: _Kept, places: Places
    ) -> tuple[Tensor, list[Tensor]]:
        """The gradient of qkv, in its room, and those of the LoRA after the attention."""
        dout = self.o.backward(dy)
        assert dout is not None
        of_o = self.o.gradients(dy, kept.mixed, kept.narrow_o)
        heads = self.heads
        shape = (len(dy), heads.heads, heads.dim)
        turned = kept.qkv if heads.q_norm is None else self._turned(kept.qkv, places)
        saved = (*heads.split(turned), kept.mixed.view(shape), kept.lse)
        grads = attend_backward(dout.view(shape), saved, places.rows, heads.scale)
        dqkv = self.qkv.room_for_gradient(len(dy))
        own = dqkv[:, : self.qkv.outputs]
        self.rows.turn_backward(grads, places.cos, places.sin, own)
        if heads.q_norm is not None:
            self._unnormalize(kept.qkv, own)
        return dqkv, of_o

    def _turned(self, qkv: Tensor, places: Places) -> Tensor:
        """qkv with its queries and keys turned: in place, but where they are normalised first."""
        heads = self.heads
        if heads.q_norm is not None:
            qkv = qkv.clone()
            for part, weight in self._normed_heads(qkv):
                part.copy_(self._head_norm(part, weight).view(part.shape))
        self.rows.turn(qkv, places.cos, places.sin, heads.turning)
        return qkv

    def _normed_heads(self, qkv: Tensor) -> list[tuple[Tensor, Tensor]]:
        q, k, _ = self.heads.split(qkv)
        assert self.heads.q_norm is not None and self.heads.k_norm is not None
        return [(q, self.heads.q_norm), (k, self.heads.k_norm)]

    def _head_norm(self, part: Tensor, weight: Tensor) -> Tensor:
        flat = part.reshape(-1, self.heads.dim)
        return self.rows.norm(flat, weight, self.norms.eps, torch.empty_like(flat))

    def _unnormalize(self, qkv: Tensor, grads: Tensor) -> None:
        """The gradients after the norms of heads become those before, in place."""
        split = self.heads.split(grads)
        for (part, weight), own in zip(self._normed_heads(qkv), split, strict=False):
            x, dy = (tensor.reshape(-1, self.heads.dim) for tensor in (part, own))
            none = torch.zeros_like(dy)
            dx = self.rows.norm_backward(x, weight, dy, none, self.norms.eps, torch.empty_like(x))
            own.copy_(dx.view(own.shape))


class _Layer(torch.autograd.Function):
    """`FastLayer` as autograd sees it."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, layer: FastLayer, places: Places, keep: bool, *parameters: Tensor
    ) -> Tensor:
        with torch.autocast(h.device.type, enabled=False):
            for product in layer.products:
                product.refresh()
            kept = layer.halves(h, places)
            gated = layer.gated(kept.gate_up)
            result = layer.down.forward(gated).add_(kept.middle)
        ctx.layer, ctx.places, ctx.keep = layer, places, keep
        narrow = gated[:, layer.down.inputs :].contiguous()
        ctx.save_for_backward(h, *((*kept[:-1], narrow) if keep else ()))
        return result

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        h, *tensors = ctx.saved_tensors
        layer: FastLayer = ctx.layer
        with torch.autocast(h.device.type, enabled=False):
            kept = _Kept(*tensors) if ctx.keep else layer.halves(h, ctx.places)
            dh, grads = layer.backward(
                h, outer[0].contiguous(), kept, ctx.places, wanted=ctx.needs_input_grad[0]
            )
        return (dh, None, None, None, *grads)


def fast_norm(x: Tensor, weight: Tensor, eps: float, rows: Rows) -> Tensor:
    """x / rms(x) * weight over the last dimension, with the gradient of x."""
    normed: Tensor = _Norm.apply(x, weight, eps, rows)  # type: ignore[no-untyped-call]
    return normed


class _Norm(torch.autograd.Function):
    """A norm outside of layers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, rows: Rows) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        ctx.save_for_backward(flat, weight)
        ctx.eps, ctx.rows = eps, rows
        return rows.norm(flat, weight, eps, torch.empty_like(flat)).view(x.shape)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dy = outer[0].reshape(x.shape).clone()  # the kernel writes over it
        none, out = torch.zeros_like(dy), torch.empty_like(x)
        dx = ctx.rows.norm_backward(x, weight, dy, none, ctx.eps, out)
        return dx.view(outer[0].shape), None, None, None
