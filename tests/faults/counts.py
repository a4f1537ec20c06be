"""How often a fault is tried: a few times in every run of the tests, and in full with `-m soak`."""

from __future__ import annotations

import pytest

__all__ = ["FULL", "counts"]

FULL = (pytest.mark.soak, pytest.mark.timeout(3600))
"""The marks of what only `pytest -m soak` runs."""


def counts(short: int, full: int) -> pytest.MarkDecorator:
    """The parameter `count` of a test."""
    return pytest.mark.parametrize("count", [short, pytest.param(full, marks=FULL)])
