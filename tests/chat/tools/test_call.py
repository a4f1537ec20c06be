"""The calls in a reply, as a chat template sees them and as the store has them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modules.chat.messages import Message
from modules.chat.tools.call import (
    ReplyCall,
    calls_of,
    ended,
    messages_of,
    moved,
    settled,
    written,
)

LIKE = Message("assistant", "", True, (7,))
FIRST = ReplyCall("a", "add", '{"n": 1}', 4, 1, "done", "one")
SECOND = replace(FIRST, id="b", result="two")
THIRD = replace(FIRST, id="c", at=10, round=2, state="refused", result="")


def test_a_reply_becomes_turns_of_the_assistant_and_of_tools() -> None:
    made = list(messages_of("Hm. Then. \n\nSo.", [FIRST, SECOND, THIRD], LIKE))
    assert [(m.role, m.content) for m in made] == [
        ("assistant", "Hm."),
        ("tool", "one"),
        ("tool", "two"),
        ("assistant", "Then."),
        ("tool", "The user refused this call."),
        ("assistant", "So."),
    ]
    assert [call.id for call in made[0].tool_calls] == ["a", "b"]
    assert [m.call_id for m in made if m.role == "tool"] == ["a", "b", "c"]
    assert all(m.pinned and m.sources == (7,) for m in made)


def test_a_reply_that_is_a_call_alone_has_no_text_around_it() -> None:
    made = list(messages_of("", [replace(FIRST, at=0)], LIKE))
    assert [(m.role, m.content) for m in made] == [("assistant", ""), ("tool", "one")]


def test_what_was_written_is_read() -> None:
    assert calls_of(written([FIRST, THIRD])) == (FIRST, THIRD)


def test_where_nobody_writes_nothing_runs() -> None:
    running, approved, asked = (replace(FIRST, state=s) for s in ("running", "approved", "asked"))
    assert [c.state for c in settled([running, approved])] == ["interrupted", "skipped"]
    assert [c.state for c in settled([approved, asked])] == ["approved", "asked"]
    assert [c.state for c in ended([approved, asked, running, FIRST])] == [
        "skipped", "skipped", "interrupted", "done",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("new", "at"),
    [
        ("one two three", 7),
        ("one two three four", 7),
        ("zero, one two three", 13),
        ("", 0),
        ("one 2 three", 5),
        ("1 two 3", 0),
    ],
)
def test_a_call_keeps_its_place_when_the_text_around_it_changes(new: str, at: int) -> None:
    (call,) = moved([replace(FIRST, at=7)], "one two three", new)
    assert call.at == at
