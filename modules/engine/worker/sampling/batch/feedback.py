"""Steering by what was drawn before. Formulas are those of sampling/feedback.py.

The state is corrected as soon as a token is drawn, and not when the next one is wanted.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from modules.engine.worker.sampling.batch.field import Field, Step
from modules.engine.worker.sampling.batch.members import Members

__all__ = ["adaptive_p", "mirostat_one", "mirostat_two"]


def mirostat_one(members: Members) -> Step:
    """Keeps the k most likely tokens, with a k for the limit μ by Zipf's law."""
    name, vocab = "mirostat 1", members.state.vocab
    active = members.active(name)
    learn = _corrections(members, name)

    def step(field: Field) -> None:
        field.sort()
        surprise = _surprise(field)
        learn(field, surprise)
        limits = members.state.limits.index_select(0, members.slots)
        limit = _zipf_limit(surprise.flip(-1), limits, vocab)
        field.cut((surprise > limit) & active)

    return step


def mirostat_two(members: Members) -> Step:
    """Drops tokens more surprising than the limit μ; the most likely one stays."""
    name = "mirostat 2"
    active = members.active(name)
    learn = _corrections(members, name)

    def step(field: Field) -> None:
        surprise = _surprise(field)
        learn(field, surprise)
        limits = members.state.limits.index_select(0, members.slots)[:, None]
        highest = field.scores.amax(-1, keepdim=True)
        field.cut((surprise > limits) & (field.scores < highest) & active)

    return step


def adaptive_p(members: Members) -> Step:
    """Makes tokens likely whose probability is near a target."""
    name = "adaptive_p"
    active = members.active(name)
    target = members.column(name, lambda p: p.adaptive_target, 0)
    decay = members.column(name, lambda p: p.adaptive_decay, 1)[:, 0]
    share = members.column(name, lambda p: 1 - p.adaptive_decay, 0)[:, 0]
    state, slots = members.state, members.slots

    def step(field: Field) -> None:
        p = field.scores.softmax(-1)
        columns = field.columns()

        def learn(tokens: Tensor) -> None:
            averages = state.averages.index_select(0, slots)
            averages = decay * averages + share * _of_token(p, columns, tokens)
            state.averages.index_copy_(0, slots, averages)

        field.learners.append(learn)
        averages = state.averages.index_select(0, slots)[:, None]
        d = (p - (2 * target - averages).clamp(0, 1)).abs() / 0.3
        wanted = 5 - 10 * d.square() / (1 + d)
        field.change(wanted.where(field.scores.isfinite() & active, field.scores))

    return step


def _surprise(field: Field) -> Tensor:
    return -field.scores.log_softmax(-1) / math.log(2)


def _corrections(members: Members, name: str) -> Callable[[Field, Tensor], None]:
    """What has a field's limits learn: μ ← μ - η · (surprise - τ)."""
    tau = members.column(name, lambda p: p.mirostat_tau, 0)[:, 0]
    eta = members.column(name, lambda p: p.mirostat_eta, 0)[:, 0]
    state, slots = members.state, members.slots

    def learn(field: Field, surprise: Tensor) -> None:
        columns = field.columns()

        def correct(tokens: Tensor) -> None:
            limits = state.limits.index_select(0, slots)
            limits = limits - eta * (_of_token(surprise, columns, tokens) - tau)
            state.limits.index_copy_(0, slots, limits)

        field.learners.append(correct)

    return learn


def _of_token(values: Tensor, columns: Tensor | None, tokens: Tensor) -> Tensor:
    """The value [n] in the column of each row's token."""
    if columns is None:
        return values.gather(1, tokens[:, None])[:, 0]
    return values.where(columns == tokens[:, None], 0).sum(-1)


def _zipf_limit(surprise: Tensor, limits: Tensor, vocab: int) -> Tensor:
    """The surprise [n, 1] of the k-th of the ascending ones [n, width], as in `MirostatOne`."""
    width = surprise.shape[-1]
    top = surprise[:, :101].double() * math.log(2)
    ratios = top.diff()
    steps = torch.arange(1, top.shape[-1], device=top.device, dtype=torch.float64)
    steps = ((steps + 1) / steps).log()
    # Beyond the tokens that are ruled out there is no ratio.
    weights = steps.where(ratios.isfinite(), 0)
    ratios = ratios.where(ratios.isfinite(), 0)
    s = (weights * ratios).sum(-1) / (weights * weights).sum(-1).clamp(min=1e-12)
    s = s.clamp(min=1e-2)
    epsilon = torch.where((s - 1).abs() < 1e-6, 1e-6, s - 1)
    k = (epsilon * 2 ** limits.double() / (1 - vocab**-epsilon)) ** (1 / s)
    # Of a row whose logits are no numbers k is none either, and no index.
    k = k.round().nan_to_num(1).clamp(1, width).long()
    return surprise.gather(1, k[:, None] - 1)
