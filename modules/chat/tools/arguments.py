"""Whether the arguments of a call are what the tool's JSON schema asks for.

The keywords that schemas of tools have in practice; the others are passed over, and a regular
expression is never run on what a model wrote, since it may take forever.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["problem_with"]

_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "object": dict,
    "array": list, "null": type(None),
}  # fmt: skip
_DEEPEST = 12
_BOUNDS = (
    ("minimum", "maximum", (int, float), "is", ""),
    ("minLength", "maxLength", str, "has", " characters"),
    ("minItems", "maxItems", list, "has", " items"),
)


def problem_with(value: Any, schema: Any, place: str = "", depth: int = 0) -> str:
    """What is wrong with `value`, as one sentence; empty for nothing. `place` is its name."""
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return ""
    return (
        _kind(value, schema, place)
        or _size(value, schema, place)
        or _choice(value, schema, place, depth)
        or _members(value, schema, place, depth)
    )


def _kind(value: Any, schema: Mapping[str, Any], place: str) -> str:
    wanted = schema.get("type")
    names = [wanted] if isinstance(wanted, str) else wanted if isinstance(wanted, list) else []
    known = [name for name in names if name in _TYPES]
    if known and not any(_is(value, name) for name in known):
        return f"{place or 'The arguments'} must be {' or '.join(known)}."
    return ""


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[name])


def _size(value: Any, schema: Mapping[str, Any], place: str) -> str:
    for low, high, kind, verb, unit in _BOUNDS:
        if not isinstance(value, kind) or isinstance(value, bool):
            continue
        size = len(value) if isinstance(value, str | list) else value
        least, most = schema.get(low), schema.get(high)
        if isinstance(least, int | float) and size < least:
            return f"{place} {verb} {size}{unit}, and {least} is the least."
        if isinstance(most, int | float) and size > most:
            return f"{place} {verb} {size}{unit}, and {most} is the most."
    return ""


def _choice(value: Any, schema: Mapping[str, Any], place: str, depth: int) -> str:
    choices = schema.get("enum")
    if isinstance(choices, list) and value not in choices:
        return f"{place} must be one of {', '.join(map(str, choices))}."
    if "const" in schema and value != schema["const"]:
        return f"{place} must be {schema['const']}."
    for key in ("anyOf", "oneOf"):
        ways = schema.get(key)
        if isinstance(ways, list) and ways:
            found = [problem_with(value, way, place, depth + 1) for way in ways]
            if all(found):
                return found[0]
    return ""


def _members(value: Any, schema: Mapping[str, Any], place: str, depth: int) -> str:
    if isinstance(value, list):
        found = (
            problem_with(one, schema.get("items"), f"{place}[{i}]", depth + 1)
            for i, one in enumerate(value)
        )
        return next(filter(None, found), "")
    if not isinstance(value, dict):
        return ""
    needed = schema.get("required")
    for name in needed if isinstance(needed, list) else []:
        if name not in value:
            return f"{_within(place, name)} is missing."
    known = schema.get("properties")
    known = known if isinstance(known, Mapping) else {}
    for name, member in value.items():
        if name in known:
            problem = problem_with(member, known[name], _within(place, name), depth + 1)
            if problem:
                return problem
        elif schema.get("additionalProperties") is False:
            return f"{_within(place, name)} is unknown; there are: {', '.join(known) or 'none'}."
    return ""


def _within(place: str, name: Any) -> str:
    return f"{place}.{name}" if place else str(name)
