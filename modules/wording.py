"""What messages say of a name or a value that does not fit."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

__all__ = ["nearest", "shown"]


def shown(value: object) -> str:
    """A value as it would be written in Python, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def nearest(name: str, known: Sequence[str] | Mapping[str, object]) -> str:
    """Ask whether one of `known` was meant, or say nothing where none is near."""
    near = difflib.get_close_matches(name[:60], list(known), n=1)
    return f"Did you mean {near[0]}?" if near else ""
