"""`/v1/messages`, as users of Anthropic's official client meet it."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest

from modules.engine.fake import FakeEngine

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."
TOOLS: Any = [
    {
        "name": "weather",
        "description": "Tells it.",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
    }
]
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}</tool_call>'


def client(api: Any, key: str = "none") -> anthropic.Anthropic:
    url = api.url.removesuffix("/v1")
    return anthropic.Anthropic(base_url=url, api_key=key, max_retries=0)


def ask(api: Any, **options: Any) -> Any:
    options = {"model": "fake-model", "max_tokens": 100, "messages": QUESTION} | options
    return client(api).messages.create(**options)


def prompt(api: Any) -> str:
    return str(api.engine.requests[-1].prompt)


@pytest.fixture
def caller(serve: Any) -> Any:
    """A model that says a word, and calls a tool."""
    return serve(FakeEngine(reply=lambda request: f"Let me see. {CALL}"))


# -- text --------------------------------------------------------------------------------


def test_a_message_is_answered_with_usage(api: Any) -> None:
    message = ask(api, system="Be brief.")
    assert [block.text for block in message.content] == [ANSWER]
    assert (message.role, message.model, message.stop_reason) == (
        "assistant",
        "fake-model",
        "end_turn",
    )
    assert message.usage.output_tokens == 6
    assert message.usage.input_tokens > 0
    assert "<|im_start|>system\nBe brief.<|im_end|>" in prompt(api)


def test_a_reply_ends_at_its_limit_and_at_a_stop_sequence(api: Any) -> None:
    assert ask(api, max_tokens=2).stop_reason == "max_tokens"
    assert ask(api, stop_sequences=[" France"]).content[0].text == "The capital of"


def test_blocks_of_text_are_joined_and_turns_of_one_role_too(api: Any) -> None:
    blocks = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    ask(api, messages=[{"role": "user", "content": blocks}, *QUESTION])
    assert "<|im_start|>user\nHello\n\nWhat is the capital" in prompt(api)


def test_a_reply_that_is_begun_goes_on(api: Any) -> None:
    ask(api, messages=[*QUESTION, {"role": "assistant", "content": "I think"}])
    assert prompt(api).endswith("<|im_start|>assistant\nI think")


def test_sampling_parameters_go_by_their_names(api: Any) -> None:
    ask(api, extra_body={"temperature": 0.5, "top_k": 7, "top_p": 0.9, "min_p": 0.1})
    params = api.engine.requests[0].params
    assert (params.temperature, params.top_k, params.top_p, params.min_p) == (0.5, 7, 0.9, 0.1)


def test_a_stream_has_anthropics_events_in_their_order(api: Any) -> None:
    events = list(ask(api, stream=True))
    assert [e.type for e in events] == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 6,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0].message.usage.input_tokens == events[-2].usage.input_tokens
    assert (events[-2].delta.stop_reason, events[-2].usage.output_tokens) == ("end_turn", 6)


def test_the_clients_own_helper_puts_a_stream_together(caller: Any) -> None:
    options: Any = {"max_tokens": 100, "messages": QUESTION, "tools": TOOLS}
    with client(caller).messages.stream(model="fake-model", **options) as stream:
        message = stream.get_final_message()
    text, call = message.content
    assert text.text.strip() == "Let me see."
    assert (call.name, call.input) == ("weather", {"city": "Paris"})
    assert message.stop_reason == "tool_use"


def test_tokens_are_counted_without_a_reply(api: Any) -> None:
    counted = client(api).messages.count_tokens(model="fake-model", messages=QUESTION)
    assert counted.input_tokens == ask(api).usage.input_tokens
    assert len(api.engine.requests) == 1


# -- tools -------------------------------------------------------------------------------


def test_a_call_is_a_block(caller: Any) -> None:
    message = ask(caller, tools=TOOLS)
    text, call = message.content
    assert (text.text, call.name, call.input) == ("Let me see.", "weather", {"city": "Paris"})
    assert message.stop_reason == "tool_use"


def test_what_came_of_a_call_goes_back_to_the_model(caller: Any) -> None:
    message = ask(caller, tools=TOOLS)
    result = {
        "type": "tool_result",
        "tool_use_id": message.content[1].id,
        "content": [{"type": "text", "text": "It rains."}],
    }
    turns = [
        *QUESTION,
        {"role": "assistant", "content": message.model_dump()["content"]},
        {"role": "user", "content": [result, {"type": "text", "text": "And now?"}]},
    ]
    ask(caller, tools=TOOLS, messages=turns)
    answer = "<tool_response>\nIt rains.\n</tool_response>\n\nAnd now?"
    assert answer in prompt(caller)
    assert '{"name": "weather", "arguments": {"city": "Paris"}}' in prompt(caller)


def test_a_failed_call_is_told_as_one(caller: Any) -> None:
    use = {"type": "tool_use", "id": "1", "name": "weather", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "1", "content": "No wire.", "is_error": True}
    turns = [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    ask(caller, tools=TOOLS, messages=[*QUESTION, *turns])
    assert "Error: No wire." in prompt(caller)


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
def test_a_call_that_must_be_has_the_schema_of_its_tool(api: Any, choice: Any) -> None:
    api.engine.reply = lambda request: '{"name": "weather", "arguments": {"city": "Rome"}}'
    (call,) = ask(api, tools=TOOLS, tool_choice=choice).content
    assert call.input == {"city": "Rome"}
    schema = json.loads(api.engine.requests[0].params.structure_text)
    assert schema["properties"]["name"] == {"const": "weather"}


# -- refusals ----------------------------------------------------------------------------

IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
REFUSED: dict[str, dict[str, Any]] = {
    "image": {"messages": [{"role": "user", "content": [IMAGE]}]},
    "thinking": {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    "no messages": {"messages": []},
    "system as a role": {"messages": [{"role": "system", "content": "x"}]},
    "unknown option": {"extra_body": {"mirostat": 2}},
    "temperature": {"extra_body": {"temperature": 9}},
    "a tool that is not there": {
        "tools": TOOLS,
        "tool_choice": {"type": "tool", "name": "x"},
    },
    "a tool without a name": {"tools": TOOLS, "tool_choice": {"type": "tool"}},
    "a tool of the server's": {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
}


@pytest.mark.parametrize("options", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_done_is_refused_in_anthropics_form(
    api: Any, options: dict[str, Any]
) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        ask(api, **options)
    body: Any = caught.value.body
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")


def test_a_wrong_key_is_refused_and_the_right_one_opens(serve: Any) -> None:
    api = serve(api_key="secret")
    options: Any = {"model": "m", "max_tokens": 9, "messages": QUESTION}
    with pytest.raises(anthropic.AuthenticationError):
        client(api, "wrong").messages.create(**options)
    assert client(api, "secret").messages.create(**options).content


def test_without_a_model_the_service_is_unavailable(serve: Any) -> None:
    with pytest.raises(anthropic.InternalServerError) as caught:
        ask(serve(command=None))
    assert caught.value.status_code == 503


def test_a_worker_that_dies_in_mid_stream_ends_it_with_an_error(serve: Any) -> None:
    api = serve(FakeEngine(reply=lambda request: "word " * 100_000, delay=0.001))
    stream = iter(ask(api, max_tokens=1000, stream=True))
    next(stream)
    api.soon(api.engine.die)
    with pytest.raises(anthropic.APIError, match="killed"):
        list(stream)


def test_closing_a_stream_cancels_its_request(serve: Any) -> None:
    api = serve(FakeEngine(reply=lambda request: "word " * 100_000, delay=0.001))
    stream = ask(api, max_tokens=1000, stream=True)
    next(iter(stream))
    stream.close()
    assert api.wait_until(lambda: not api.engine.running)
