"""`Mix`: the LoRAs that a reply is written with, and how strong each of them is."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

from modules.errors import AdapterError, InvalidInputError

__all__ = ["MAX_WEIGHT", "Mix", "checked_mix", "checked_weight", "require_applied"]

Mix = tuple[tuple[str, float], ...]
"""Names with weights. 1 is the adapter as it was trained, 0 is off; negative turns it round."""

MAX_WEIGHT = 4.0
_MAX_ADAPTERS = 256


def checked_mix(pairs: Iterable[tuple[str, float]]) -> Mix:
    """A mix in its one form: sorted by name, without what is off.

    Raises InvalidInputError for a weight or a number of adapters out of bounds.
    """
    given = [(name, checked_weight(weight)) for name, weight in pairs]
    if len(given) > _MAX_ADAPTERS or len({name for name, _ in given}) < len(given):
        raise InvalidInputError(
            f"A choice of LoRAs names each once, and at most {_MAX_ADAPTERS}.",
            "Choose fewer.",
            field="adapters",
        )
    return tuple(sorted((name, weight) for name, weight in given if weight))


def checked_weight(weight: float) -> float:
    """`weight` if it is within bounds. Raises InvalidInputError."""
    if not math.isfinite(weight) or abs(weight) > MAX_WEIGHT:
        raise InvalidInputError(
            f"A LoRA's weight cannot be {weight:g}.",
            f"Use a number from {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}.",
            field="adapters",
        )
    return float(weight)


def require_applied(mix: Mix, applied: Collection[str]) -> None:
    """Raise AdapterError, naming it, where a LoRA of `mix` is not applied."""
    for name, _ in mix:
        if name not in applied:
            raise AdapterError(
                f"The LoRA {name} is not applied.",
                "Apply it in the Model tab, or choose another one for this chat.",
            )
