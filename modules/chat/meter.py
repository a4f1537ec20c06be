"""`Meter`: what a template may use of memory and time, and what each operation costs.

A cost is a number of characters, estimated before the operation runs and never too low
by more than a small factor.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = [
    "METHOD_COSTS",
    "LimitError",
    "Meter",
    "filter_costs",
    "format_cost",
    "operator_cost",
    "shallow_cost",
]

_LARGEST_INTEGER = 20_000
"""In bits; arithmetic beyond it takes seconds inside one operation."""
_REFERENCE = 16
"""What an element of a list is charged, in characters."""


class LimitError(BaseException):
    """A limit was reached. No Exception, for jinja2 swallows those here and there."""


class Meter:
    """Counts what one rendering makes, and watches its time."""

    def __init__(self, work: int, seconds: float) -> None:
        self._wall = self._processor = 0.0
        self.renew(work, seconds)

    def renew(self, work: int, seconds: float) -> None:
        """Fill it up, for another rendering."""
        self._left = work
        self._seconds = seconds

    def spend(self, characters: int) -> None:
        """Charge what is about to be made."""
        self._left -= max(0, characters)
        if self._left < 0:
            raise LimitError("it takes too much memory")

    def weigh(self, value: object) -> int:
        """Characters of `str(value)`, about; a part that occurs twice counts twice."""
        if isinstance(value, str):
            return len(value)
        if not isinstance(value, Collection):
            return _REFERENCE
        total = _REFERENCE
        for part in value:
            total += 2 + self.weigh(part)
            if isinstance(value, Mapping):
                total += self.weigh(value[part])
            if total > self._left:
                raise LimitError("it takes too much memory")
        return total

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Raise LimitError in this block once it has used its processor time."""
        former = sys.gettrace()
        self._wall = time.monotonic() + self._seconds
        self._processor = time.thread_time() + self._seconds
        sys.settrace(self._trace)
        try:
            yield
        finally:
            sys.settrace(former)

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        # The wall clock costs a tenth of the other, and can only be ahead of it.
        if time.monotonic() > self._wall and time.thread_time() > self._processor:
            raise LimitError(f"it took longer than {self._seconds:g} s")
        # Only the template's own loops can go round without a call.
        return self._trace if frame.f_code.co_filename == "<template>" else None


# -- what operations cost ----------------------------------------------------------------


def shallow_cost(value: object) -> int:
    """What holding `value` costs; the parts of a list were paid for when they were made."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list | tuple | dict | set):
        return _REFERENCE * len(value)
    return 0


def operator_cost(meter: Meter, operator: str, left: Any, right: Any) -> int:
    """What `left operator right` costs. Raises LimitError for integers too large."""
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() + right.bit_length()
        if operator == "**":
            bits = left.bit_length() * max(0, right)
        if bits > _LARGEST_INTEGER:
            raise LimitError("it computes with too large numbers")
        return 0
    if operator == "%" and isinstance(left, str):
        return format_cost(meter, "%", left, right)
    if operator == "*":
        times = left if isinstance(left, int) else right if isinstance(right, int) else 1
        return (shallow_cost(left) + shallow_cost(right)) * max(0, times)
    return shallow_cost(left) + shallow_cost(right)


_INDIRECT_WIDTH = {
    "%": re.compile(r"%(\([^)]*\))?[-+ #0-9.]*\*"),
    "{": re.compile(r"\{[^{}]*:[^{}]*\{"),
}


def format_cost(meter: Meter, sign: str, text: str, arguments: object) -> int:
    """What `text`, whose fields begin with `sign` (% or {), filled with `arguments` costs."""
    if _INDIRECT_WIDTH[sign].search(text):
        raise LimitError("it formats with a width that is not written out")
    width = max((int(digits) for digits in re.findall(r"\d+", text)), default=0)
    return len(text) + text.count(sign) * (meter.weigh(arguments) + width)


def _indent_cost(text: str, width: int | str = 4, *_: object, **__: object) -> int:
    return (text.count("\n") + 2) * (width if isinstance(width, int) else len(width))


def _replace_cost(text: str, old: str, new: str, *_: object, **__: object) -> int:
    return len(text) + text.count(old) * len(new)


def _width_cost(text: str, width: int = 80, *_: object, **__: object) -> int:
    return len(text) + width


def _round_cost(value: object, precision: int = 0, *_: object, **__: object) -> int:
    if precision > 100:
        raise LimitError("it computes with too large numbers")
    return 0


def _tabs_cost(text: str, tabsize: int = 8, *_: object, **__: object) -> int:
    return len(text) + text.count("\t") * tabsize


METHOD_COSTS: dict[str, Callable[..., int]] = {
    "center": _width_cost,
    "expandtabs": _tabs_cost,
    "ljust": _width_cost,
    "replace": _replace_cost,
    "rjust": _width_cost,
    "zfill": _width_cost,
}
"""By the name of a method of `str`: what its arguments make it cost."""


def filter_costs(meter: Meter) -> dict[str, Callable[..., int]]:
    """By the name of a jinja2 filter: what its arguments make it cost."""

    def weigh(value: object, *_: object, **__: object) -> int:
        return meter.weigh(value)

    def join(value: object, d: str = "", *_: object, **__: object) -> int:
        return meter.weigh(value) + (len(value) if isinstance(value, Collection) else 0) * len(d)

    def tojson(value: object, *_: object, indent: int | str | None = None, **__: object) -> int:
        weight = meter.weigh(value)
        margin = indent if isinstance(indent, int) else len(indent or "")
        # Each element gets a line of its own, indented by its depth; 8 is deep for JSON.
        return weight + weight // 2 * margin * 8

    def formatted(text: str, *arguments: object, **named: object) -> int:
        return format_cost(meter, "%", text, (arguments, named))

    return {
        "center": _width_cost,
        "format": formatted,
        "indent": _indent_cost,
        "join": join,
        "replace": _replace_cost,
        "round": _round_cost,
        "string": weigh,
        "sum": weigh,
        "tojson": tojson,
    }
