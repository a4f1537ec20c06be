"""A reply that calls tools, as blocks of HTML."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modules.chat.tools.call import ReplyCall
from modules.ui.reply_body import ReplyBody, body_blocks, call_card

CALL = ReplyCall("a", "add", '{"n": 1, "to": "<b>"}', 5, 1, "done", "<i>one</i>")


def test_cards_stand_where_the_calls_were_made() -> None:
    blocks = body_blocks("Look.\n\nSo *it* is.", [CALL])
    assert blocks[0] == "<p>Look.</p>\n" and blocks[2] == "<p>So <em>it</em> is.</p>\n"
    assert blocks[1].startswith('<section class="call call-done" data-call="a"')


def test_a_growing_reply_changes_after_its_last_call_alone() -> None:
    body = ReplyBody("Look.", [CALL])
    assert len(body.blocks) == 2
    assert body.update("Look.\n\nSo") == 2
    assert body.update("Look.\n\nSo it is.") == 2
    assert tuple(body.blocks) == body_blocks("Look.\n\nSo it is.", [CALL])


def test_nothing_in_a_card_is_markup() -> None:
    card = call_card(CALL)
    assert "<dd>&lt;b&gt;</dd>" in card and "<pre>&lt;i&gt;one&lt;/i&gt;</pre>" in card


def test_nothing_in_a_card_is_unseen() -> None:
    hidden = replace(CALL, arguments='{"path": "a\\u202egpj.exe\\u200b\\nb"}')
    assert "a\\u202egpj.exe\\u200b\nb" in call_card(hidden)


@pytest.mark.parametrize(
    ("state", "asking", "word", "buttons"),
    [("asked", True, "Shall it run?", 4), ("asked", False, "Not run", 0),
     ("running", True, "Running…", 0), ("interrupted", False, "Interrupted", 0)],
)  # fmt: skip
def test_buttons_are_on_what_waits(state: str, asking: bool, word: str, buttons: int) -> None:
    card = call_card(replace(CALL, state=state), asking)  # type: ignore[arg-type]
    assert word in card and card.count("<button") == buttons and "<details" not in card
