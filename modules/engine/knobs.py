"""`Knob`: what the page, the API and the docs say about one parameter, and its checking."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from modules.errors import InvalidInputError

__all__ = ["Knob", "checked", "knob_field"]

Kind = Literal["number", "integer", "switch", "strings", "choice", "text"]


@dataclass(frozen=True, slots=True)
class Knob:
    """What the page, the API and the docs say about one field of `SamplingParams`.

    `neutral` is the value at which the field changes nothing. For strings, `maximum` is how
    many there may be; each is one of `choices` or has the form `pattern`, where these are
    given, and `example` shows the form. A choice is one of `choices`; a text has at most
    `maximum` characters.
    """

    label: str
    group: str
    help: str
    kind: Kind
    neutral: Any
    minimum: float = 0
    maximum: float = 0
    step: float = 0
    source: str = ""
    choices: tuple[str, ...] = ()
    pattern: str = ""
    example: str = ""


def knob_field(knob: Knob, default: Any) -> Any:
    """A dataclass field that carries its knob."""
    return dataclasses.field(default=default, metadata={"knob": knob})


def checked(name: str, knob: Knob, value: Any) -> Any:
    """`value` in the type of its field.

    Raises InvalidInputError, which names the field and says what would do.
    """
    match knob.kind:
        case "switch":
            if isinstance(value, bool):
                return value
            raise _refused(name, value, "Use true or false.")
        case "strings":
            return _checked_strings(name, knob, value)
        case "choice":
            if isinstance(value, str) and value in knob.choices:
                return value
            raise _refused(name, value, f"Use one of: {', '.join(knob.choices)}.")
        case "text":
            if isinstance(value, str) and len(value) <= knob.maximum:
                return value
            raise _refused(name, value, f"Use a text of at most {knob.maximum:,} characters.")
        case "integer":
            number = _number(name, value)
            if not number.is_integer():
                raise _refused(name, value, "Use a whole number.")
            _check_range(name, knob, number)
            return int(number)
        case "number":
            number = _number(name, value)
            _check_range(name, knob, number)
            return number


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _refused(name, value, "Use a number.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _refused(name, "that large", "Use a finite number.")
    return number


def _check_range(name: str, knob: Knob, number: float) -> None:
    if not knob.minimum <= number <= knob.maximum:
        raise _refused(name, f"{number:g}", f"Use {knob.minimum:g} to {knob.maximum:g}.")


def _checked_strings(name: str, knob: Knob, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, list | tuple) or not all(isinstance(s, str) for s in value):
        raise _refused(name, value, "Use a list of strings.")
    strings = tuple(s for s in value if s)
    if len(strings) > knob.maximum or any(len(s) > 200 for s in strings):
        raise _refused(
            name, f"{len(strings)} strings", f"Use at most {knob.maximum:g}, of 200 characters."
        )
    for string in strings:
        if knob.choices and string not in knob.choices:
            near = difflib.get_close_matches(string, knob.choices, 1, cutoff=0)[0]
            raise _refused(name, string, f"The nearest name is {near}.")
        if knob.pattern and not re.fullmatch(knob.pattern, string):
            raise _refused(name, string, f"Write it like {knob.example}.")
    return strings


def _refused(name: str, value: object, remedy: str) -> InvalidInputError:
    shown = str(value)
    return InvalidInputError(
        f"{name} cannot be {shown[:40]}{'...' if len(shown) > 40 else ''}.", remedy, field=name
    )
