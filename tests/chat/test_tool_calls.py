"""Calls in replies, however models write them, and however the reply is cut into pieces."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.chat.tool_calls import CallReader

NAMES = ["weather", "time.now"]
PARIS = '{"name": "weather", "arguments": {"city": "Paris"}}'
TIME = '{"name": "time.now", "arguments": {}}'

CALLS: dict[str, tuple[str, list[str], str]] = {
    "hermes": (f"<tool_call>\n{PARIS}\n</tool_call>", ["weather"], ""),
    "hermes after words": (f"Let me see.\n<tool_call>{PARIS}</tool_call>", ["weather"],
                           "Let me see.\n"),
    "hermes twice": (f"<tool_call>{PARIS}</tool_call>\n<tool_call>{TIME}</tool_call>",
                     ["weather", "time.now"], ""),
    "hermes before words": (f"<tool_call>{TIME}</tool_call>\nDone.", ["time.now"], "Done."),
    "hermes without its end": (f"<tool_call>\n{PARIS}", ["weather"], ""),
    "arguments as text": ('<tool_call>{"name": "weather", "arguments": "{\\"city\\": \\"Paris\\"}"}'
                          "</tool_call>", ["weather"], ""),
    "the mark in an argument": ('<tool_call>{"name": "weather", "arguments": {"city": '
                                '"</tool_call>"}}</tool_call>', ["weather"], ""),
    "llama": ('{"name": "weather", "parameters": {"city": "Paris"}}', ["weather"], ""),
    "llama with its mark": ('<|python_tag|>{"name": "weather", "parameters": {}}', ["weather"], ""),
    "llama with a type": ('{"type": "function", "name": "weather", "parameters": {}}',
                          ["weather"], ""),
    "llama twice": ('{"name": "weather", "parameters": {}}; {"name": "time.now", '
                    '"parameters": {}}', ["weather", "time.now"], ""),
    "openai": ('[{"id": "1", "type": "function", "function": {"name": "weather", "arguments": '
               '"{}"}}]', ["weather"], ""),
    "mistral": (f"[TOOL_CALLS] [{PARIS}, {TIME}]", ["weather", "time.now"], ""),
    "mistral without its mark": (f" [{PARIS}]", ["weather"], ""),
    "mistral later": ('[TOOL_CALLS]weather[ARGS]{"city": "Paris"}', ["weather"], ""),
    "mistral later without its marks": ('weather{"city": "Paris"}', ["weather"], ""),
}  # fmt: skip

NONE = {
    "words": "The weather is fine.",
    "a name alone": "weather",
    "another tool": '{"name": "delete", "arguments": {}}',
    "another tool between marks": '<tool_call>{"name": "delete", "arguments": {}}</tool_call>',
    "other json": '{"city": "Paris"}',
    "a list": "[1, 2, 3]",
    "json that is broken": '{"name": "weather", "arguments": {"city": ',
    "arguments that are a list": '{"name": "weather", "arguments": [1]}',
    "a name that is none": '{"name": {"weather": 1}, "arguments": {}}',
    "not a number": '{"name": "weather", "arguments": {"x": NaN}}',
    "a mark alone": "[TOOL_CALLS]",
    "an open mark": "a < b and <tool",
    "words after json": f"{PARIS} is how I would call it.",
    "nested too deep": '{"name": "weather", "arguments": ' + "[" * 100_000,
}


def read(*pieces: str, most: int = 128) -> tuple[str, CallReader]:
    reader = CallReader(NAMES, most)
    shown = "".join([reader.push(piece) for piece in pieces])
    return shown + reader.finish(), reader


@pytest.mark.parametrize("cut", [1, 3, 10_000])
@pytest.mark.parametrize(("text", "names", "shown"), CALLS.values(), ids=CALLS)
def test_calls_are_found(text: str, names: list[str], shown: str, cut: int) -> None:
    rest, reader = read(*(text[i : i + cut] for i in range(0, len(text), cut)))
    assert ([call.name for call in reader.calls], rest) == (names, shown)
    assert all(isinstance(json.loads(call.arguments), dict) for call in reader.calls)


@pytest.mark.parametrize("text", NONE.values(), ids=NONE)
def test_what_is_no_call_stays_text(text: str) -> None:
    shown, reader = read(*(text[i : i + 7] for i in range(0, len(text), 7)))
    assert (shown, reader.calls) == (text, [])


def test_words_are_shown_at_once() -> None:
    reader = CallReader(NAMES)
    assert [reader.push(p) for p in ("The", " sky", " <b", "> is")] == [
        "The",
        " sky",
        " <b",
        "> is",
    ]


def test_json_that_is_no_call_is_shown_before_the_reply_has_ended() -> None:
    reader = CallReader(NAMES)
    text = '{"city": "Paris", "weather": "fine", "wind": "from the west, and strong"'
    assert reader.push(text) == text


def test_a_call_is_known_when_its_mark_has_come() -> None:
    reader = CallReader(NAMES)
    reader.push(f"<tool_call>{PARIS}</tool_call>")
    (call,) = reader.calls
    assert json.loads(call.arguments) == {"city": "Paris"}
    assert len(call.id) == 9


def test_no_more_calls_are_taken_than_wanted() -> None:
    text, reader = read(f"<tool_call>{PARIS}</tool_call><tool_call>{TIME}</tool_call>", most=1)
    assert ([call.name for call in reader.calls], text) == (["weather"], "")


PARTS = st.sampled_from(
    ["<tool_call>", "</tool_call>", PARIS, TIME, "[", "]", "{", "}", "weather", "[ARGS]", "\n",
     "[TOOL_CALLS]", "<|python_tag|>", "words ", "<", '"name"', ";"]
)  # fmt: skip


@given(st.lists(PARTS, max_size=8), st.integers(1, 9))
def test_how_a_reply_is_cut_changes_nothing(parts: list[str], size: int) -> None:
    text = "".join(parts)
    whole, cut = read(text), read(*(text[i : i + size] for i in range(0, len(text), size)))
    assert whole[0] == cut[0]
    assert [(c.name, c.arguments) for c in whole[1].calls] == [
        (c.name, c.arguments) for c in cut[1].calls
    ]


def test_with_any_name_a_marked_call_of_a_tool_that_is_not_there_is_one() -> None:
    reader = CallReader(["weather"], any_name=True)
    marked = '<tool_call>{"name": "other", "arguments": {"x": 1}}</tool_call>'
    assert reader.push(f"So. {marked} Yes.") + reader.finish() == "So. Yes."
    assert [call.name for call in reader.calls] == ["other"]
    bare = CallReader(["weather"], any_name=True)
    text = '{"name": "other", "arguments": {"x": 1}}'
    assert bare.push(text) + bare.finish() == text
