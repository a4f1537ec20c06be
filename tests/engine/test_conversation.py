"""A chat written down as a prompt, and read again."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from modules.chat.messages import Message
from modules.chat.template import render
from modules.engine.conversation import TEMPLATE, Turn, read_conversation

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
ROLES = st.sampled_from(["system", "user", "assistant"])
CHATS = st.lists(st.builds(Message, ROLES, TEXTS), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(CHATS)
def test_every_chat_is_read_as_it_was_written(messages: list[Message]) -> None:
    talk = read_conversation(render(TEMPLATE, messages, special_tokens={}))
    assert talk is not None
    assert [(turn.role, turn.content) for turn in talk.turns] == [
        (message.role, message.content) for message in messages
    ]
    assert not talk.continued


@settings(max_examples=60, deadline=None)
@given(CHATS)
def test_the_last_message_may_be_left_open(messages: list[Message]) -> None:
    talk = read_conversation(render(TEMPLATE, messages, special_tokens={}, continue_final=True))
    assert talk is not None
    assert (talk.role, talk.begun) == (messages[-1].role, messages[-1].content)
    assert len(talk.turns) == len(messages) - 1


def test_what_is_added_to_the_prompt_begins_the_reply() -> None:
    prompt = render(TEMPLATE, [Message("user", "Hi")], special_tokens={})
    for added in ("<tool_call>\n", '{"name": "', "back\\"):
        talk = read_conversation(prompt + added)
        assert talk is not None
        assert (talk.turns, talk.begun) == ((Turn("user", "Hi"),), added)


def test_other_prompts_are_no_conversation() -> None:
    for prompt in ("", "Hello", "lantern-messages", "lantern-messages\nHello", "[INST] Hi"):
        assert read_conversation(prompt) is None
