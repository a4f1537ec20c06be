"""Attention over packs: rows that lie one behind another, of which none sees another.

Importing this module makes transformers know the attention as `NAME`. A model that is set to it
takes `cu_seqlens` and `max_seqlen` among the arguments of its forward. No mask is ever built: a
padded batch has its padding behind each row, where causal attention does not look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

__all__ = ["NAME", "Rows", "attend", "attend_backward", "attend_forward", "lantern_attention"]

NAME = "lantern"
"""What transformers calls this attention: `model.set_attn_implementation(NAME)`."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Where the rows of a pack begin and end.

    `cu_seqlens` int32 [rows + 1] begins with 0 and ends with the number of tokens; `longest` is
    the length of the longest row. `window` is how many tokens one sees, itself among them, 0 for
    all before it.
    """

    cu_seqlens: Tensor
    longest: int
    window: int = 0

    @classmethod
    def of(
        cls, cu_seqlens: Tensor | Sequence[int], longest: int | None, device: torch.device,
        window: int | None = None,
    ) -> Rows:  # fmt: skip
        """From what a model's forward is given; without `longest`, the card is asked for it."""
        ends = torch.as_tensor(cu_seqlens, dtype=torch.int32, device=device)
        longest = int(ends.diff().max()) if longest is None else int(longest)
        return cls(ends, longest, window if window and window < longest else 0)

    @property
    def lengths(self) -> list[int]:
        """The length of each row."""
        found: list[int] = self.cu_seqlens.diff().tolist()
        return found


def lantern_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seqlens: Tensor | Sequence[int] | None = None,
    max_seqlen: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """What transformers calls: q [1, heads, tokens, dim] to [1, tokens, heads, dim].

    Without `cu_seqlens`, each row of the batch is one row, and this is transformers' own "sdpa".
    """
    window = options.get("sliding_window")
    if cu_seqlens is None and window and window < key.shape[2]:
        return _slid(query, key, value, window, options.get("scaling")), None
    if cu_seqlens is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    rows = Rows.of(cu_seqlens, max_seqlen, query.device, window)
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    scale = options.get("scaling") or query.shape[-1] ** -0.5
    return attend(q, k, v, rows, scale)[None], None


def attend(q: Tensor, k: Tensor, v: Tensor, rows: Rows, scale: float) -> Tensor:
    """Causal attention within each row: q [tokens, heads, dim], k and v [tokens, kv_heads, dim]."""
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        return _Attend.apply(q, k, v, rows, scale)  # type: ignore[no-any-return, no-untyped-call]
    return attend_forward(q, k, v, rows, scale)[0]


def attend_forward(
    q: Tensor, k: Tensor, v: Tensor, rows: Rows, scale: float
) -> tuple[Tensor, Tensor]:
    """The attention [tokens, heads, dim], and what its backward wants besides."""
    if not _has_kernel(q):
        with torch.no_grad():
            return _row_by_row(q, k, v, rows, scale), q.new_empty(0)
    ends, longest = rows.cu_seqlens, rows.longest
    out, lse, *_ = torch.ops.aten._flash_attention_forward(
        q, k, v, ends, ends, longest, longest, 0.0, not rows.window, False,
        scale=scale, **_window(rows),
    )  # fmt: skip
    return out, lse


def attend_backward(
    grad: Tensor, saved: tuple[Tensor, Tensor, Tensor, Tensor, Tensor], rows: Rows, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v; `saved` is q, k, v and the two tensors of `attend_forward`."""
    q, k, v, out, lse = saved
    if not _has_kernel(q):
        with torch.enable_grad():
            q, k, v = (tensor.detach().requires_grad_() for tensor in (q, k, v))
            again = _row_by_row(q, k, v, rows, scale)
        dq, dk, dv = torch.autograd.grad(again, (q, k, v), grad)
        return dq, dk, dv
    ends, longest = rows.cu_seqlens, rows.longest
    # The last two are for dropout, of which there is none.
    unused = torch.zeros(2, dtype=torch.uint64, device=q.device)
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._flash_attention_backward(
        grad.contiguous(), q, k, v, out, lse, ends, ends, longest, longest, 0.0,
        not rows.window, unused, q.new_empty(0), scale=scale, **_window(rows),
    )  # fmt: skip
    return found


class _Attend(torch.autograd.Function):
    """`attend` with its gradient."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, rows: Rows, scale: float) -> Tensor:
        out, lse = attend_forward(q, k, v, rows, scale)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.rows, ctx.scale = rows, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        found = attend_backward(grads[0], ctx.saved_tensors, ctx.rows, ctx.scale)
        return (*found, None, None)


def _has_kernel(q: Tensor) -> bool:
    """Whether FlashAttention, which comes with torch, serves these queries."""
    dim = q.shape[-1]
    return (
        q.is_cuda
        and q.dtype in (torch.float16, torch.bfloat16)
        and dim % 8 == 0
        and dim <= 256
        and torch.cuda.get_device_capability(q.device) >= (8, 0)
    )


def _window(rows: Rows) -> dict[str, int]:
    if not rows.window:
        return {}
    return {"window_size_left": rows.window - 1, "window_size_right": 0}


def _row_by_row(q: Tensor, k: Tensor, v: Tensor, rows: Rows, scale: float) -> Tensor:
    parts = zip(*(torch.split(tensor, rows.lengths) for tensor in (q, k, v)), strict=True)
    return torch.cat([_row(*part, window=rows.window, scale=scale) for part in parts])


def _row(q: Tensor, k: Tensor, v: Tensor, *, window: int, scale: float) -> Tensor:
    q, k, v = (tensor.transpose(0, 1)[None] for tensor in (q, k, v))
    if window and window < q.shape[2]:
        return _slid(q, k, v, window, scale)[0]
    grouped = q.shape[1] != k.shape[1]
    out = functional.scaled_dot_product_attention(
        q, k, v, is_causal=True, scale=scale, enable_gqa=grouped
    )
    return out[0].transpose(0, 1)


def _slid(q: Tensor, k: Tensor, v: Tensor, window: int, scale: float | None) -> Tensor:
    """Attention to the last `window` tokens alone; all are [rows, heads, tokens, dim]."""
    first = k.shape[2] - q.shape[2]
    places = torch.arange(first, k.shape[2], device=q.device)[:, None]
    away = places - torch.arange(k.shape[2], device=q.device)
    out = functional.scaled_dot_product_attention(
        q, k, v, (away >= 0) & (away < window), scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )
    return out.transpose(1, 2)


AttentionInterface.register(NAME, lantern_attention)
