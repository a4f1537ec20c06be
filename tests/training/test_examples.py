"""Rows become conversations, whatever they call their columns."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modules.chat.messages import Message
from modules.errors import DatasetError
from modules.training.examples import Example, Form, example_of, recognise
from modules.training.rows import Problem, Row

PAIR = (Message("user", "Q"), Message("assistant", "A"))


def read(fields: dict[str, Any]) -> Example | Problem:
    return example_of(Row("a.json", 3, fields), recognise(list(fields)))


@pytest.mark.parametrize(
    "fields",
    [
        {"instruction": "Q", "output": "A"},
        {"instruction": "Q", "input": "", "output": "A"},
        {"instruction": "Q", "context": None, "response": "A"},
        {"prompt": "Q", "completion": "A"},
        {"question": "Q", "answer": "A", "id": 7},
        {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]},
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
        {"messages": json.dumps([{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}])},  # noqa: E501
    ],
)  # fmt: skip
def test_each_usual_form_is_the_same_conversation(fields: dict[str, Any]) -> None:
    assert read(fields) == Example("a.json, row 3", PAIR)


def test_the_input_of_alpaca_follows_the_instruction() -> None:
    example = read({"instruction": "Q", "input": "more", "output": "A"})
    assert isinstance(example, Example)
    assert example.messages[0].content == "Q\n\nmore"


def test_a_system_column_comes_first() -> None:
    example = read({"system": "Be brief.", "instruction": "Q", "output": "A"})
    assert isinstance(example, Example)
    assert example.messages == (Message("system", "Be brief."), *PAIR)


def test_columns_of_any_name_can_be_mapped() -> None:
    form = Form("yours", {"prompt": "frage", "response": "antwort"})
    assert example_of(Row("a.csv", 1, {"frage": "Q", "antwort": "A"}), form) == Example(
        "a.csv, row 1", PAIR
    )


def test_columns_that_tell_nothing_are_listed() -> None:
    with pytest.raises(DatasetError, match="x, y"):
        recognise(["y", "x"])


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"instruction": "Q", "output": ""}, "empty reply"),
        ({"instruction": " ", "output": "A"}, "empty prompt"),
        ({"instruction": ["Q"], "output": "A"}, "type"),
        ({"text": " \n"}, "empty"),
        ({"text": 4}, "empty"),
        ({"messages": []}, "messages"),
        ({"messages": "not json"}, "messages"),
        ({"messages": ["Q"]}, "messages"),
        ({"messages": [{"role": "user", "content": "Q"}]}, "no reply"),
        ({"messages": [{"role": "tool", "content": "Q"}]}, "role"),
        ({"messages": [{"role": "user", "content": None}]}, "type"),
        ({"conversations": [{"from": "gpt", "value": " "}]}, "empty reply"),
    ],
)
def test_a_row_that_teaches_nothing_says_why(fields: dict[str, Any], kind: str) -> None:
    problem = read(fields)
    assert isinstance(problem, Problem)
    assert (problem.number, problem.kind) == (3, kind)
    assert problem.sentence.endswith(".")


def test_a_row_without_the_column_of_the_others_is_a_problem() -> None:
    form = recognise(["instruction", "output"])
    problem = example_of(Row("a.json", 9, {"instruction": "Q"}), form)
    assert isinstance(problem, Problem)
    assert "'output'" in problem.sentence
