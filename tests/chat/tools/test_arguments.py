"""Arguments of a call, and what a schema says of them."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.chat.tools.arguments import problem_with

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "n": {"type": "integer", "minimum": 1, "maximum": 9},
        "unit": {"enum": ["C", "F"]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 2},
        "where": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]},
        "either": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
    "required": ["n"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"n": 3}, ""),
        ({"n": 3.0, "unit": "C", "tags": ["a"], "where": {"x": 1}, "either": None}, ""),
        ({}, "n is missing."),
        ({"n": "3"}, "n must be integer."),
        ({"n": True}, "n must be integer."),
        ({"n": 3.5}, "n must be integer."),
        ({"n": 10}, "n is 10, and 9 is the most."),
        ({"n": 1, "unit": "K"}, "unit must be one of C, F."),
        ({"n": 1, "tags": ["abcd"]}, "tags[0] has 4 characters, and 3 is the most."),
        ({"n": 1, "tags": ["a", "b", "c"]}, "tags has 3 items, and 2 is the most."),
        ({"n": 1, "where": {}}, "where.x is missing."),
        ({"n": 1, "either": 7}, "either must be string."),
        ({"n": 1, "m": 1}, "m is unknown; there are: n, unit, tags, where, either."),
        ([], "The arguments must be object."),
    ],
)
def test_what_does_not_fit_is_told_by_its_name(arguments: Any, problem: str) -> None:
    assert problem_with(arguments, SCHEMA) == problem


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "n": st.one_of(st.integers(-2, 12), st.text(max_size=2), st.booleans()),
            "unit": st.sampled_from(["C", "F", "K", 1]),
            "tags": st.lists(st.text(max_size=5), max_size=4),
            "where": st.dictionaries(st.sampled_from("xy"), st.floats(0, 1) | st.none()),
            "either": st.none() | st.text(max_size=2) | st.integers(),
        },
    )
)
def test_it_agrees_with_the_library_that_knows_all_of_json_schema(arguments: Any) -> None:
    fits = jsonschema.Draft202012Validator(SCHEMA).is_valid(arguments)
    assert (problem_with(arguments, SCHEMA) == "") == fits


@pytest.mark.parametrize(
    "schema",
    [{"type": 7}, {"required": 1, "properties": []}, {"enum": {}}, {"anyOf": [7]}, [], "x",
     {"pattern": "(a+)+$"}, {"$ref": "https://example.org/schema"}, {"minimum": "1"}],
)  # fmt: skip
def test_a_schema_that_says_nonsense_refuses_nothing(schema: Any) -> None:
    assert problem_with({"x": "a" * 40}, schema) == ""


def test_a_schema_below_itself_ends() -> None:
    schema: dict[str, Any] = {"type": "object"}
    schema["properties"] = {"x": schema}
    value: dict[str, Any] = {}
    value["x"] = value
    assert problem_with(value, schema) == ""
