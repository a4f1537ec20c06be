"""Random schemas and expressions, for replies that random weights write."""

from __future__ import annotations

import json
import random
from typing import Any

__all__ = ["random_regex", "random_schema"]

_LEAVES: tuple[dict[str, Any], ...] = (
    {"type": "null"},
    {"type": "boolean"},
    {"type": "integer", "minimum": -5, "maximum": 20},
    {"type": "integer", "exclusiveMinimum": 3, "multipleOf": 7, "maximum": 700},
    {"type": "number", "minimum": 0.25, "maximum": 1.5},
    {"type": "string", "maxLength": 5},
    {"type": "string", "minLength": 2, "maxLength": 4},
    {"type": "string", "pattern": "^[a-f]{2,5}$"},
    {"type": "string", "format": "date"},
    {"type": ["integer", "null"], "maximum": 99, "minimum": 0},
    {"enum": ["red", "green é", 3, None, {"a": [1]}]},
    {"const": 'a "quoted" 😀 word'},
    {"$ref": "#/$defs/tree"},
)
_TREE = {
    "type": "object",
    "properties": {"next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/tree"}]}},
    "required": ["next"],
    "additionalProperties": False,
}


def random_schema(seed: int) -> dict[str, Any]:
    """A schema whose replies are short, of a kind that depends on `seed` alone."""
    rng = random.Random(seed)
    return {**_part(rng, 2), "$defs": {"tree": _TREE}}


def _part(rng: random.Random, depth: int) -> dict[str, Any]:
    kind = rng.choice(["object", "array", "any", "leaf"] if depth else ["leaf"])
    if kind == "object":
        names = rng.sample(["a", "name", "größe", "x y", "tags"], rng.randint(1, 3))
        parts = {name: _part(rng, depth - 1) for name in names}
        return {
            "type": "object",
            "properties": parts,
            "required": rng.sample(names, rng.randint(0, len(names))),
            "additionalProperties": False,
        }
    if kind == "array":
        least = rng.randint(0, 2)
        most = least + rng.randint(0, 2)
        return {
            "type": "array",
            "items": _part(rng, depth - 1),
            "minItems": least,
            "maxItems": most,
        }
    if kind == "any":
        return {"anyOf": [_part(rng, depth - 1) for _ in range(rng.randint(1, 3))]}
    return json.loads(json.dumps(rng.choice(_LEAVES)))


def random_regex(seed: int) -> str:
    """An expression that is the same one for Python, with ASCII classes."""
    return _expression(random.Random(seed), 3)


def _expression(rng: random.Random, depth: int) -> str:
    if not depth:
        return rng.choice(
            ["a", "the ", "é", "😀", r"\d", r"\w", "[x-z]", r"[^a-y\s]", r"\.", "[ö-ü]"]
        )
    inner = [_expression(rng, depth - 1) for _ in range(rng.randint(1, 3))]
    times = rng.choice(["", "", "?", "{2}", "{1,3}", "{0,2}"])
    return f"(?:{rng.choice(['', '|']).join(inner)}){times}"
