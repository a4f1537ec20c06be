"""The form of a reply, in the words of OpenAI's API and of llama.cpp's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from modules.api.errors import ApiError
from modules.engine.params import knobs

__all__ = ["STRUCTURE_OPTIONS", "schema_params", "structure_option", "structure_params"]

_GRAMMARS = ("grammar", "grammar_string")
STRUCTURE_OPTIONS = ("response_format", *_GRAMMARS)
"""Options that stand for `structure` and `structure_text`, and never for two forms at once."""


def structure_params(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the STRUCTURE_OPTIONS among `options` come to as sampling parameters.

    Raises ApiError. What the text says is checked by the engine.
    """
    name = structure_option(options)
    if not name:
        return {}
    if options.get("structure") is not None:
        raise ApiError(f"{name} and structure mean the same; give one of them.", param=name)
    if name == "response_format":
        return _response_format(options[name])
    return {"structure": "gbnf", "structure_text": _bounded(name, options[name])}


def structure_option(options: Mapping[str, Any]) -> str:
    """The one of the STRUCTURE_OPTIONS that `options` have; "" for none. Raises ApiError."""
    given = [name for name in STRUCTURE_OPTIONS if options.get(name) not in (None, "")]
    if len(given) > 1:
        raise ApiError(f"{' and '.join(given)} cannot be had together.", param=given[-1])
    return given[0] if given else ""


def _response_format(form: object) -> dict[str, Any]:
    match form:
        case {"type": "text"}:
            return {}
        case {"type": "json_object"}:
            return {"structure": "json"}
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return schema_params("response_format", schema)
        case {"type": "json_schema"}:
            raise _refused(
                "response_format", "A response_format of type json_schema needs json_schema.schema."
            )
    raise _refused(
        "response_format", "The type of response_format is text, json_object or json_schema."
    )


def schema_params(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling parameters that hold a reply to `schema`, which the option `name` gave."""
    text = _bounded(name, json.dumps(schema, ensure_ascii=False))
    return {"structure": "json_schema", "structure_text": text}


def _bounded(name: str, text: object) -> str:
    most = int(knobs()["structure_text"].maximum)
    if not isinstance(text, str) or len(text) > most:
        raise _refused(name, f"{name} takes a text of at most {most:,} characters.")
    return text


def _refused(name: str, message: str) -> ApiError:
    return ApiError(message, param=name, code="invalid_value")
