"""Tools, as users of the official client meet them."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import openai
import pytest

from modules.engine.fake import FakeEngine
from modules.engine.local import LocalEngine
from modules.engine.protocol import LoadModel
from modules.errors import InvalidInputError
from modules.loader.options import LoadOptions
from tests.starter import provide_starter

QUESTION: Any = [{"role": "user", "content": "Is it raining in Paris?"}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {
        "type": "function",
        "function": {"name": "weather", "description": "Tells it.", "parameters": SCHEMA},
    },
    {"type": "function", "function": {"name": "now"}},
]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
NAMED = {"type": "function", "function": {"name": "now"}}


def ask(api: Any, **options: Any) -> Any:
    options = {"model": "fake-model", "messages": QUESTION, "tools": TOOLS} | options
    return api.client.chat.completions.create(**options)


@pytest.fixture
def caller(serve: Any) -> Any:
    """A model that says a word, and calls a tool."""
    return serve(FakeEngine(reply=lambda request: f"Let me see. {CALL}"))


# -- replies -----------------------------------------------------------------------------


def test_a_call_comes_as_openai_has_it(caller: Any) -> None:
    choice = ask(caller).choices[0]
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "weather")
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me see.")


def test_a_reply_without_words_has_no_content(serve: Any) -> None:
    message = ask(serve(FakeEngine(reply=lambda request: CALL))).choices[0].message
    assert message.content is None
    assert message.tool_calls


def test_a_stream_brings_a_calls_name_and_then_its_arguments(caller: Any) -> None:
    deltas = [c.choices[0].delta for c in ask(caller, stream=True)]
    name, arguments = [d.tool_calls[0] for d in deltas if d.tool_calls]
    assert (name.index, name.function.name, name.function.arguments) == (0, "weather", "")
    assert (arguments.index, arguments.id) == (0, None)
    assert json.loads(arguments.function.arguments) == {"city": "Paris"}
    assert "".join(d.content or "" for d in deltas).strip() == "Let me see."


def test_the_clients_own_helper_puts_a_stream_together(serve: Any) -> None:
    api = serve(FakeEngine(reply=lambda request: f"{CALL}\n{CALL}"))
    with api.client.chat.completions.stream(
        model="fake-model", messages=QUESTION, tools=TOOLS
    ) as stream:
        choice = stream.get_final_completion().choices[0]
    assert [c.function.name for c in choice.message.tool_calls] == ["weather", "weather"]
    assert choice.finish_reason == "tool_calls"


def test_without_parallel_calls_one_is_taken(serve: Any) -> None:
    api = serve(FakeEngine(reply=lambda request: f"{CALL}\n{CALL}"))
    assert len(ask(api, parallel_tool_calls=False).choices[0].message.tool_calls) == 1


def test_words_alone_are_a_reply_as_ever(api: Any) -> None:
    choice = ask(api).choices[0]
    assert (choice.finish_reason, choice.message.tool_calls) == ("stop", None)
    texts = [c.choices[0].delta.content for c in ask(api, stream=True)][1:-1]
    assert texts == ["The", " capital", " of", " France", " is", " Paris."]


@pytest.mark.parametrize("stream", [True, False])
def test_logprobs_come_for_the_tokens_of_calls_too(caller: Any, stream: bool) -> None:
    answer = ask(caller, logprobs=True, stream=stream)
    choices = [c.choices[0] for c in (answer if stream else [answer])]
    tokens = [t for c in choices if c.logprobs for t in c.logprobs.content]
    assert len(tokens) == 10


def test_each_choice_has_its_own_calls(caller: Any) -> None:
    answer = ask(caller, n=2)
    ids = [choice.message.tool_calls[0].id for choice in answer.choices]
    assert len(set(ids)) == 2


# -- prompts -----------------------------------------------------------------------------


def test_the_model_is_told_of_the_tools(api: Any) -> None:
    ask(api)
    prompt = api.engine.requests[0].prompt
    assert '"name": "weather", "description": "Tells it."' in prompt


def test_with_tool_choice_none_it_is_not(caller: Any) -> None:
    choice = ask(caller, tool_choice="none").choices[0]
    assert "weather" not in caller.engine.requests[0].prompt
    assert choice.finish_reason == "stop"
    assert choice.message.tool_calls is None


def test_what_came_of_a_call_goes_back_to_the_model(caller: Any) -> None:
    message = ask(caller).choices[0].message
    answer = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "It rains."}
    ask(caller, messages=[*QUESTION, message.model_dump(), answer])
    prompt = caller.engine.requests[1].prompt
    assert "<tool_response>\nIt rains.\n</tool_response>" in prompt
    assert '{"name": "weather", "arguments": {"city": "Paris"}}' in prompt


# -- calls that must be --------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_call_that_must_be_has_the_schema_of_its_tool(api: Any, choice: Any) -> None:
    call = '{"name": "now", "arguments": {}}'
    api.engine.reply = lambda request: call
    answer = ask(api, tool_choice=choice).choices[0]
    assert answer.message.tool_calls[0].function.name == "now"
    (request,) = api.engine.requests
    assert request.prompt.endswith("<|im_start|>assistant\n<tool_call>\n")
    validator = jsonschema.Draft202012Validator(json.loads(request.params.structure_text))
    assert validator.is_valid(json.loads(call))
    weather = {"name": "weather", "arguments": {"city": "Paris"}}
    assert validator.is_valid(weather) == (choice == "required")


def test_a_call_that_was_cut_is_told_as_cut(api: Any) -> None:
    api.engine.reply = lambda request: '{"name": "weather", "arguments": {"city": "Paris"}}'
    choice = ask(api, tool_choice="required", max_tokens=2).choices[0]
    assert (choice.finish_reason, choice.message.tool_calls) == ("length", None)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "required without tools": ({"tools": [], "tool_choice": "required"}, "tool_choice"),
    "a tool that is not there": (
        {"tool_choice": {"type": "function", "function": {"name": "x"}}},
        "tool_choice",
    ),
    "a tool twice": ({"tools": [TOOLS[0], TOOLS[0]]}, "tools"),
    "a name with a space": (
        {"tools": [{"type": "function", "function": {"name": "a b"}}]},
        "tools[0].function.name",
    ),
    "a schema too long": (
        {
            "tools": [
                {
                    "type": "function",
                    "function": {"name": "f", "parameters": {"const": "x" * 65_536}},
                }
            ],
            "tool_choice": "required",
        },
        "tools",
    ),
    "another form beside": ({"response_format": {"type": "json_object"}}, "response_format"),
    "another form beside a call": (
        {"tool_choice": "required", "response_format": {"type": "json_object"}},
        "tool_choice",
    ),
    "arguments that are no object": (
        {
            "messages": [
                {
                    "role": "assistant",
                    "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "[]"}}],
                }
            ]
        },
        "messages[0].tool_calls[0].function.arguments",
    ),
}


@pytest.mark.parametrize(("options", "param"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused_by_name(api: Any, options: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(api, **options)
    assert caught.value.param == param


def test_a_schema_that_the_engine_refuses_is_the_tools(api: Any) -> None:
    def refuse(request: Any) -> str:
        raise InvalidInputError("It cannot be used.", "Correct it.", "structure_text")

    api.engine.reply = refuse
    with pytest.raises(openai.BadRequestError) as caught:
        ask(api, tool_choice="required")
    assert caught.value.param == "tools"


# -- a real model ------------------------------------------------------------------------


@pytest.mark.starter
@pytest.mark.parametrize("choice", ["required", NAMED | {"function": {"name": "weather"}}])
def test_even_a_small_model_calls_a_tool_by_its_schema(serve: Any, choice: Any) -> None:
    api = serve(LocalEngine(), LoadModel(str(provide_starter()), LoadOptions(device="cpu")))
    answer = ask(api, tool_choice=choice, temperature=0, max_tokens=80)
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "weather" or choice == "required"
    schemas = {"weather": SCHEMA, "now": {"type": "object"}}
    jsonschema.validate(json.loads(call.function.arguments), schemas[call.function.name])
