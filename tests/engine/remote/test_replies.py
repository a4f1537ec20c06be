"""From the chunks of a server to the events of an engine."""

from __future__ import annotations

import dataclasses
from typing import Any

from modules.engine.remote.pieces import texts_of
from modules.engine.remote.replies import ReplyReader, logprobs_of
from tests.engine.remote.helpers import chat, plain


def told(choice: dict[str, Any] | None, **usage: int) -> dict[str, Any]:
    return {"choices": [choice] if choice else [], "usage": usage or None}


def said(word: str) -> dict[str, Any]:
    return told({"delta": {"content": word}})


def text_of(reader: ReplyReader, *events: dict[str, Any]) -> str:
    chunks = [*map(reader.read, events), reader.rest()]
    return "".join(chunk.text for chunk in chunks if chunk)


def reader_of(*stops: str) -> ReplyReader:
    return ReplyReader(dataclasses.replace(chat(), stop=stops), chat=True)


def test_a_stop_string_that_comes_in_pieces_is_not_shown() -> None:
    reader = reader_of("\nYou:")
    assert text_of(reader, said("Hello"), said("\nYo"), said("u: ha"), said("more")) == "Hello"
    assert reader.ended
    assert reader.finished().reason == "stop"


def test_the_beginning_of_a_stop_string_is_shown_when_it_was_none() -> None:
    assert text_of(reader_of("\nYou:"), said("Hello\nYo"), said("ko"), said("\nY")) == (
        "Hello\nYoko\nY"
    )


def test_a_reply_without_an_end_has_not_ended() -> None:
    reader = reader_of()
    reader.read(said("Hello"))
    assert not reader.ended


def test_thoughts_stand_before_the_reply_as_the_model_wrote_them() -> None:
    thoughts = [told({"delta": {name: "hm"}}) for name in ("reasoning_content", "reasoning")]
    assert text_of(reader_of(), *thoughts, said("Yes"), said(".")) == (
        "<think>\nhmhm\n</think>\n\nYes."
    )


def test_tokens_are_those_that_the_server_tells() -> None:
    reader = reader_of()
    one = told({"delta": {"content": "a b"}}, prompt_tokens=9, completion_tokens=2)
    two = told({"delta": {"content": " c"}}, prompt_tokens=9, completion_tokens=3)
    end = told({"delta": {}, "finish_reason": "length"}, prompt_tokens=9, completion_tokens=3)
    chunks = [reader.read(event) for event in (one, two, end)]
    assert [chunk.tokens for chunk in chunks if chunk] == [2, 1]
    usage = reader.finished().usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (9, 3)
    assert reader.finished().reason == "length"


def test_without_numbers_each_chunk_counts_as_a_token() -> None:
    reader = reader_of()
    text_of(reader, said("a"), said(" b"), told({"delta": {}, "finish_reason": "stop"}))
    assert reader.finished().usage.completion_tokens == 2


def test_log_probabilities_come_in_two_forms() -> None:
    top = [{"token": "a", "logprob": -0.1}, {"token": "b", "logprob": -3}]
    of_chat = {"content": [{"token": "a", "logprob": -0.1, "top_logprobs": top}]}
    of_text = {"tokens": ["a"], "token_logprobs": [-0.1], "top_logprobs": [{"a": -0.1, "b": -3}]}
    assert logprobs_of(of_chat) == logprobs_of(of_text)
    assert logprobs_of(None) == ()


def test_an_odd_chunk_adds_nothing() -> None:
    reader = ReplyReader(plain("x"), chat=False)
    assert reader.read({"choices": "x", "usage": 5}) is None
    assert reader.read({"choices": [{"text": 7}]}) is None


def test_tokens_of_both_kinds_of_vocabulary_are_text_again() -> None:
    assert texts_of(["Hello", "Ġw", "Ã", "¶r", "Ċ"]) == ["Hello", " w", "", "ör", "\n"]
    assert texts_of(["▁Hello", "<0xC3>", "<0xB6>"]) == [" Hello", "", "ö"]
