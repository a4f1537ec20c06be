"""What gives the distribution another shape. Formulas are those of sampling/temperature.py."""

from __future__ import annotations

from modules.engine.worker.sampling.batch.field import Field, Step
from modules.engine.worker.sampling.batch.members import Members

__all__ = ["dynamic_temperature", "quadratic_sampling", "temperature"]


def temperature(members: Members) -> Step:
    """score / T."""
    divisor = members.column("temperature", lambda p: max(p.temperature, 1e-5), 1)

    def step(field: Field) -> None:
        field.scores = field.scores / divisor

    return step


def dynamic_temperature(members: Members) -> Step:
    """score / T, where T follows the entropy."""
    name = "dynamic_temperature"
    low = members.column(name, lambda p: p.dynatemp_low, 1)
    span = members.column(name, lambda p: p.dynatemp_high - p.dynatemp_low, 0)
    exponent = members.column(name, lambda p: p.dynatemp_exponent, 1)

    def step(field: Field) -> None:
        logp = field.scores.log_softmax(-1)
        entropy = -(logp.exp() * logp).nansum(-1, keepdim=True).clamp(max=0)
        most = field.scores.isfinite().sum(-1, keepdim=True).log().clamp(min=1e-10)
        unsure = (entropy / most).clamp(0, 1)
        field.scores = field.scores / (low + span * unsure**exponent)

    return step


def quadratic_sampling(members: Members) -> Step:
    """A parabola, or with a curve a cubic, of the distance to the highest score."""
    name = "quadratic_sampling"
    active = members.active(name)
    factor = members.column(name, lambda p: p.smoothing_factor, 1)
    k = members.column(name, lambda p: (3 - p.smoothing_curve) / 2, 1)
    s = members.column(name, lambda p: (p.smoothing_curve - 1) / 2, 0)
    # Beyond a curve of 3 the cubic rises at first as one goes down from the highest score.
    keeps_order = all(row.params.smoothing_curve <= 3 for row in members.rows)

    def step(field: Field) -> None:
        highest = field.scores.amax(-1, keepdim=True)
        d = field.scores - highest
        smoothed = highest + factor * d.square() * (s * d - k)
        field.scores = smoothed.where(field.scores.isfinite() & active, field.scores)
        field.sorted &= keeps_order

    return step
