"""What a user wrote for a setting, in the type of its field, and within its bounds.

A field is one of the dataclass `Settings`: its type is written as text, and its metadata has the
`choices`, the `bounds` or the `form` of its values.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from pathlib import Path
from typing import Any

from modules.errors import SettingsError
from modules.wording import shown

__all__ = ["MAX_MEMORY", "Bytes", "check", "convert", "element", "flag_of", "memory"]

_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off", ""}
_MEMORY = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?) ?(?:([KMGT])(i?)B)?", re.IGNORECASE)
MAX_MEMORY = 2**50
_MAX_VALUES = 64
"""Values that one flag may have."""

Bytes = int
"""An amount of memory, which a user writes as 20 (GiB), 20GiB, 20GB or 3500MiB."""


def flag_of(field: dataclasses.Field[Any]) -> str:
    """The flag of a field."""
    return "--" + field.name.replace("_", "-")


def check(field: dataclasses.Field[Any], value: Any) -> None:
    """Raise SettingsError where `value` is out of the bounds of `field`."""
    choices, bounds = field.metadata.get("choices"), field.metadata.get("bounds")
    form, example = field.metadata.get("form", (None, ""))
    if choices and value not in choices:
        remedy = f"Use one of {', '.join(str(choice) for choice in choices)}."
    elif bounds and not bounds[0] <= value <= bounds[1]:
        remedy = f"Use a number from {bounds[0]} to {bounds[1]}."
    elif form and value and not re.fullmatch(form, value):
        remedy = f"Write it as {example}."
    else:
        return
    told = "what was given" if field.metadata.get("secret") else shown(value)
    raise SettingsError(f"{flag_of(field)} cannot be {told}.", remedy)


def element(field: dataclasses.Field[Any]) -> str:
    """The type of a field as it is written, or of one of its values if it has several."""
    return str(field.type).removeprefix("tuple[").removesuffix(", ...]")


def convert(field: dataclasses.Field[Any], value: object, source: str) -> Any:
    """`value` in the type of `field`; text is read as the environment spells it."""
    kind = element(field)
    if kind == field.type:
        return _one(kind, value, source)
    values = value.split(",") if isinstance(value, str) else value
    values = values if isinstance(values, list) else [values]
    if len(values) > _MAX_VALUES:
        raise SettingsError(f"{source} has too many values.", f"Give at most {_MAX_VALUES}.")
    return tuple(_one(kind, one, source) for one in values)


def _one(kind: str, value: object, source: str) -> Any:
    if not isinstance(value, str | int | float):
        # Said without the value: written out, a list full of YAML aliases fills the memory.
        raise SettingsError(f"{source} has no plain value.", "Write one `name: value` a line.")
    text = str(value).strip()
    match kind:
        case "bool":
            if text.lower() in _TRUE | _FALSE:
                return text.lower() in _TRUE
            raise SettingsError(f"{source} cannot be {shown(text)}.", "Use true or false.")
        case "int":
            if re.fullmatch("-?[0-9]{1,18}", text):
                return int(text)
            raise SettingsError(f"{source} cannot be {shown(text)}.", "Use a whole number.")
        case "Bytes":
            try:
                return memory(text)
            except argparse.ArgumentTypeError as error:
                raise SettingsError(f"{source}: {error}", "Write 20, 20GiB or 3500MiB.") from error
        case "Path" if "\0" in text or not text:
            raise SettingsError(f"{source} cannot be {shown(text)}.", "Use the path of a folder.")
        case "Path":
            return Path(text)
    return text


def memory(text: str) -> Bytes:
    """Bytes of "20" (GiB, as in text-generation-webui), "20GiB", "20GB" or "3500MiB"."""
    found = _MEMORY.fullmatch(text)
    if not found:
        raise argparse.ArgumentTypeError(f"{shown(text)} is no amount of memory")
    number, prefix, binary = found.groups()
    base = 1024 if binary or not prefix else 1000
    size = int(float(number) * base ** ("KMGT".index((prefix or "G").upper()) + 1))
    if size > MAX_MEMORY:
        raise argparse.ArgumentTypeError(f"{shown(text)} is more than any machine has")
    return size
