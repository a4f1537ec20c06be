"""Cross entropy of the tokens that are learnt, without the logits of all tokens at once.

Logits of 8,192 tokens of a Llama-2 are 0.5 GB in 16 bits, and as much again for their gradient.
Here a chunk of them is projected, compared and turned into the gradient of the hidden states at
once, as Liger does (Hsu et al. 2024, arxiv.org/abs/2410.10989), so that nothing of them is kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modules.training.packing import IGNORED
from modules.training.trainer.fast.check import best_rows

__all__ = ["summed_loss"]

_LOGITS = 2**26
"""Logits that exist at the same time: those of 2,097 tokens of a Llama-2."""
_EIGHT = 8


def summed_loss(hidden: Tensor, head_weight: Tensor, labels: Tensor) -> Tensor:
    """The sum, over the tokens that are learnt, of their cross entropy: float32, a scalar.

    `hidden` [rows, length, width] are the last hidden states (after the norm), `head_weight`
    [vocabulary, width] the head's, and `labels` [rows, length] the ids of the tokens themselves,
    `IGNORED` where one is not learnt: the hidden state of a token is held against the label of
    the next. Gradients go to `hidden` and to `head_weight`, where they are wanted.
    """
    following = labels[:, 1:].reshape(-1)
    learnt = (following != IGNORED).nonzero().squeeze(-1)
    length = labels.shape[1]
    places = learnt + learnt.div(max(length - 1, 1), rounding_mode="floor")
    flat = hidden.reshape(-1, hidden.shape[-1])
    loss: Tensor = _Summed.apply(flat, head_weight, following[learnt], places)  # type: ignore[no-untyped-call]
    return loss


class _Summed(torch.autograd.Function):
    """The loss and, in the same pass, its gradients.

    Of hidden [tokens, width], weight [vocabulary, width], and the labels [n] of `places` [n].
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, places: Tensor) -> Tensor:
        wants_hidden, wants_weight, *_ = ctx.needs_input_grad
        ctx.dtype = weight.dtype
        rows = best_rows(hidden.dtype, hidden.device)
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        of_hidden = torch.zeros_like(hidden) if wants_hidden else None
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        weight = weight.to(hidden.dtype)
        size = max(1, _LOGITS // len(weight))
        with torch.autocast(hidden.device.type, enabled=False):
            for first in range(0, len(places), size):
                own, wanted = places[first : first + size], labels[first : first + size]
                chosen = hidden.index_select(0, own)
                logits = _logits(chosen, weight)
                loss += rows.cross_entropy(logits, wanted).sum()
                # From here on, `logits` are the gradients of what they were.
                if of_hidden is not None:
                    of_hidden.index_copy_(0, own, logits @ weight)
                if of_weight is not None:
                    of_weight += logits.t() @ chosen
        ctx.grads = of_hidden, of_weight
        return loss

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        of_hidden, of_weight = ctx.grads
        ctx.grads = None, None
        if of_hidden is not None:
            of_hidden = of_hidden.mul_(outer[0].to(of_hidden.dtype))
        if of_weight is not None:
            of_weight = of_weight.mul_(outer[0]).to(ctx.dtype)
        return of_hidden, of_weight, None, None


def _logits(hidden: Tensor, weight: Tensor) -> Tensor:
    """Of each row [n, vocabulary], a multiple of 8 apart, as the kernel wants them."""
    vocabulary = len(weight)
    pitch = -(-vocabulary // _EIGHT) * _EIGHT
    wide = torch.empty(len(hidden), pitch, dtype=hidden.dtype, device=hidden.device)
    return torch.mm(hidden, weight.t(), out=wide[:, :vocabulary])
