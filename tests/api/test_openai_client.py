"""The API as users of the official client meet it."""

from __future__ import annotations

import http.client
import json
from typing import Any

import openai
import pydantic
import pytest

from modules.engine.fake import FakeEngine
from modules.engine.protocol import GenerateRequest
from modules.errors import InvalidInputError

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."
LONG = "x" * 65_536


def ask(api: Any, **options: Any) -> Any:
    options = {"model": "fake-model", "messages": QUESTION} | options
    return api.client.chat.completions.create(**options)


def complete(api: Any, **options: Any) -> Any:
    options = {"model": "fake-model", "prompt": "The capital of France"} | options
    return api.client.completions.create(**options)


def echo_seed(request: GenerateRequest) -> str:
    return f"seed {request.params.seed}"


# -- models ------------------------------------------------------------------------------


def test_the_loaded_model_is_listed(api: Any) -> None:
    assert [m.id for m in api.client.models.list()] == ["fake-model"]


def test_the_loaded_model_can_be_retrieved(api: Any) -> None:
    assert api.client.models.retrieve("fake-model").owned_by == "lantern"


def test_another_model_is_not_found(api: Any) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        api.client.models.retrieve("meta/other")
    assert caught.value.code == "model_not_found"


def test_without_a_model_the_list_is_empty(serve: Any) -> None:
    assert list(serve(command=None).client.models.list()) == []


# -- chat --------------------------------------------------------------------------------


def test_a_chat_is_answered_with_usage(api: Any) -> None:
    answer = ask(api)
    assert answer.choices[0].message.content == ANSWER
    assert (answer.choices[0].finish_reason, answer.model) == ("stop", "fake-model")
    assert answer.usage.completion_tokens == 6
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 6


def test_the_prompt_is_built_by_the_chat_template(api: Any) -> None:
    ask(api, messages=[{"role": "developer", "content": "Be brief."}, *QUESTION])
    (request,) = api.engine.requests
    assert request.prompt.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
    assert request.prompt.endswith("<|im_start|>assistant\n") and not request.special_tokens


def test_text_parts_are_joined(api: Any) -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    ask(api, messages=[{"role": "user", "content": parts}])
    assert "<|im_start|>user\nHello<|im_end|>" in api.engine.requests[0].prompt


def test_an_earlier_answer_can_be_sent_back_as_it_came(api: Any) -> None:
    message = ask(api).choices[0].message.model_dump()
    assert ask(api, messages=[*QUESTION, message, *QUESTION]).choices[0].message.content == ANSWER


def test_a_stream_brings_each_token_in_a_chunk_of_its_own(api: Any) -> None:
    chunks = list(ask(api, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    texts = [c.choices[0].delta.content for c in chunks[1:-1]]
    assert texts == ["The", " capital", " of", " France", " is", " Paris."]
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert len({c.id for c in chunks}) == 1


def test_a_stream_ends_with_usage_where_that_is_asked_for(api: Any) -> None:
    *others, last = ask(api, stream=True, stream_options={"include_usage": True})
    assert last.choices == [] and last.usage.completion_tokens == 6
    assert all(chunk.usage is None for chunk in others)


@pytest.mark.parametrize("stop", [" France", [" Spain", " France"]])
def test_a_reply_ends_before_a_stop_string(api: Any, stop: Any) -> None:
    choice = ask(api, stop=stop).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("The capital of", "stop")


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_reply_ends_at_its_limit(api: Any, name: str) -> None:
    choice = ask(api, **{name: 2}).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("The capital", "length")


def test_without_a_limit_the_rest_of_the_context_is_free(api: Any) -> None:
    used = ask(api).usage.prompt_tokens
    assert api.engine.requests[0].params.max_new_tokens == 2048 - used


def test_a_limit_beyond_the_context_ends_at_the_context(api: Any) -> None:
    used = ask(api, max_tokens=1_000_000).usage.prompt_tokens
    assert api.engine.requests[0].params.max_new_tokens == 2048 - used


def test_parameters_begin_at_their_neutral_values(api: Any) -> None:
    ask(api)
    params = api.engine.requests[0].params
    assert (params.temperature, params.top_p, params.seed) == (1.0, 1.0, -1)


def test_lanterns_own_parameters_are_extra_fields(api: Any) -> None:
    ask(api, temperature=0.5, extra_body={"min_p": 0.1, "repetition_penalty": 1.2})
    params = api.engine.requests[0].params
    assert (params.temperature, params.min_p, params.repetition_penalty) == (0.5, 0.1, 1.2)


def test_a_seed_repeats_a_reply(serve: Any) -> None:
    api = serve(FakeEngine(reply=echo_seed))
    texts = {ask(api, seed=7).choices[0].message.content for _ in range(2)}
    assert texts == {"seed 7"}


def test_several_choices_have_seeds_of_their_own(serve: Any) -> None:
    answer = ask(serve(FakeEngine(reply=echo_seed)), seed=7, n=3)
    assert [c.message.content for c in answer.choices] == ["seed 7", "seed 8", "seed 9"]
    assert [c.index for c in answer.choices] == [0, 1, 2]


def test_a_prompt_with_several_choices_counts_once(api: Any) -> None:
    one, three = ask(api).usage, ask(api, n=3).usage
    assert three.prompt_tokens == one.prompt_tokens
    assert three.completion_tokens == 3 * one.completion_tokens


def test_streamed_choices_carry_their_index(api: Any) -> None:
    texts = ["", ""]
    for chunk in ask(api, stream=True, n=2):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [ANSWER, ANSWER]


def test_logprobs_come_with_their_alternatives(api: Any) -> None:
    content = ask(api, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert [t.token for t in content[:2]] == ["The", " capital"]
    assert (content[0].logprob, bytes(content[0].bytes)) == (-0.1, b"The")
    assert [t.token for t in content[0].top_logprobs] == ["The", " other0", " other1"]


def test_logprobs_are_streamed_with_their_tokens(api: Any) -> None:
    chunks = [c.choices[0] for c in ask(api, stream=True, logprobs=True)][1:-1]
    assert [c.logprobs.content[0].token for c in chunks] == [c.delta.content for c in chunks]


def test_no_logprobs_come_unasked(api: Any) -> None:
    assert ask(api).choices[0].logprobs is None


# -- completions ---------------------------------------------------------------------------


def test_a_text_is_continued_as_plain_text(api: Any) -> None:
    answer = complete(api)
    assert (answer.choices[0].text, answer.object) == (ANSWER, "text_completion")
    (request,) = api.engine.requests
    assert request.prompt == "The capital of France" and request.special_tokens


def test_several_texts_are_continued_in_their_order(serve: Any) -> None:
    api = serve(FakeEngine(reply=lambda request: request.prompt.upper()))
    answer = complete(api, prompt=["one", "two two"], n=2)
    assert [c.text for c in answer.choices] == ["ONE", "ONE", "TWO TWO", "TWO TWO"]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 6)


def test_a_completion_streams(api: Any) -> None:
    chunks = list(complete(api, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].text for c in chunks[:-1]) == ANSWER
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == 6


@pytest.mark.parametrize("stream", [True, False])
def test_completion_logprobs_say_where_each_token_stands(api: Any, stream: bool) -> None:
    answer = complete(api, logprobs=2, stream=stream)
    choices = [c.choices[0] for c in (answer if stream else [answer])]
    logprobs = [c.logprobs for c in choices if c.logprobs]
    assert [o for lp in logprobs for o in lp.text_offset] == [0, 3, 11, 14, 21, 24]
    assert logprobs[0].top_logprobs[0] == {"The": -0.1, " other0": -3.0}
    assert logprobs[0].token_logprobs[0] == -0.1


def test_penalties_and_biases_of_openai_are_taken_over(api: Any) -> None:
    ask(api, presence_penalty=0.5, frequency_penalty=-1, logit_bias={"5": -100, "6": 1.5})
    params = api.engine.requests[0].params
    assert (params.presence_penalty, params.frequency_penalty) == (0.5, -1)
    assert params.logit_bias == ("5:-100", "6:1.500")


@pytest.mark.parametrize(
    ("options", "structure", "text"),
    [
        ({"response_format": {"type": "text"}}, "none", ""),
        ({"response_format": {"type": "json_object"}}, "json", ""),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "strict": True, "schema": {"const": "é"}},
                }
            },
            "json_schema",
            '{"const": "é"}',
        ),
        ({"extra_body": {"grammar_string": "root ::= x"}}, "gbnf", "root ::= x"),
        ({"extra_body": {"grammar": "root ::= x", "grammar_string": ""}}, "gbnf", "root ::= x"),
        ({"extra_body": {"structure": "regex", "structure_text": "a+"}}, "regex", "a+"),
    ],
)
def test_the_form_of_a_reply_is_asked_for_as_elsewhere(
    api: Any, options: dict[str, Any], structure: str, text: str
) -> None:
    ask(api, **options)
    params = api.engine.requests[0].params
    assert (params.structure, params.structure_text) == (structure, text)


def test_a_model_of_pydantic_is_a_form(api: Any) -> None:
    class Person(pydantic.BaseModel):
        name: str
        age: int

    api.engine.reply = lambda request: '{"name": "Ada", "age": 36}'
    answer = api.client.chat.completions.parse(
        model="fake-model", messages=QUESTION, response_format=Person
    )
    assert answer.choices[0].message.parsed == Person(name="Ada", age=36)
    assert api.engine.requests[0].params.structure == "json_schema"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"extra_body": {"grammar_string": "x"}}, "grammar_string"),
        ({"extra_body": {"structure": "regex", "structure_text": "("}}, "structure_text"),
    ],
)
def test_a_form_that_the_engine_refuses_is_named_as_it_was_given(
    api: Any, options: dict[str, Any], param: str, stream: bool
) -> None:
    def refuse(request: GenerateRequest) -> str:
        raise InvalidInputError("It cannot be used.", "Correct it.", "structure_text")

    api.engine.reply = refuse
    with pytest.raises(openai.BadRequestError) as caught:
        ask(api, stream=stream, **options)
    assert (caught.value.param, caught.value.code) == (param, "invalid_value")


# -- refusals ------------------------------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "temperature out of range": ({"temperature": 9}, "temperature"),
    "temperature as text": ({"extra_body": {"temperature": "hot"}}, "temperature"),
    "huge number": ({"extra_body": {"top_k": 10**400}}, "top_k"),
    "negative limit": ({"max_tokens": -1}, "max_tokens"),
    "two limits": ({"max_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens"),
    "too many choices": ({"n": 9}, "n"),
    "penalty": ({"presence_penalty": 2.5}, "presence_penalty"),
    "tool of another type": ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].type"),
    "response format": ({"response_format": {"type": "xml"}}, "response_format"),
    "format without a schema": ({"response_format": {"type": "json_schema"}}, "response_format"),
    "schema too long": (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"schema": {"const": "x" * 65_536}},
            }
        },
        "response_format",
    ),
    "two forms": (
        {"response_format": {"type": "json_object"}, "extra_body": {"grammar": "root ::= []"}},
        "grammar",
    ),
    "form twice": ({"extra_body": {"grammar": "x", "structure": "json"}}, "grammar"),
    "grammar as number": ({"extra_body": {"grammar_string": 5}}, "grammar_string"),
    "unknown form": ({"extra_body": {"structure": "xml"}}, "structure"),
    "logit bias": ({"logit_bias": {"50256": -101}}, "logit_bias"),
    "logit bias of a word": ({"logit_bias": {"cat": 1}}, "logit_bias"),
    "unknown option": ({"extra_body": {"mirostat": 2}}, "mirostat"),
    "unknown role": ({"messages": [{"role": "god", "content": ""}]}, "messages[0].role"),
    "no messages": ({"messages": []}, "messages"),
    "number as content": ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    "function call": (
        {"messages": [{"role": "assistant", "function_call": {"name": "f"}}]},
        "messages[0].function_call",
    ),
    "image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content",
    ),
    "top_logprobs alone": ({"top_logprobs": 2}, "top_logprobs"),
    "too many stop strings": ({"stop": ["a"] * 17}, "stop"),
}


@pytest.mark.parametrize(("options", "param"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_done_is_refused_by_name(
    api: Any, options: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(api, **options)
    assert (caught.value.param or "") == param
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    "options", [{"echo": True}, {"suffix": "."}, {"best_of": 3}, {"prompt": [1, 2]}, {"prompt": []}]
)
def test_what_a_completion_cannot_do_is_refused(api: Any, options: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError):
        complete(api, **options)


def test_options_without_effect_are_accepted(api: Any) -> None:
    answer = ask(
        api, user="me", store=False, presence_penalty=0, tools=[], response_format={"type": "text"}
    )
    assert answer.choices[0].message.content == ANSWER


@pytest.mark.parametrize("stream", [True, False])
def test_a_prompt_beyond_the_context_is_refused(api: Any, stream: bool) -> None:
    history = [{"role": "user", "content": "word " * 1500}, *QUESTION]
    with pytest.raises(openai.BadRequestError) as caught:
        ask(api, messages=[*history, {"role": "user", "content": "word " * 1500}], stream=stream)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")


def test_without_a_model_the_service_is_unavailable(serve: Any) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        ask(serve(command=None))
    assert (caught.value.status_code, caught.value.code) == (503, "model_not_loaded")


def test_a_wrong_key_is_refused(serve: Any) -> None:
    api = serve(api_key="lantern-ключ")
    with pytest.raises(openai.AuthenticationError) as caught:
        openai.OpenAI(base_url=api.url, api_key="wrong", max_retries=0).models.list()
    assert caught.value.code == "invalid_api_key"


def test_the_right_key_opens_the_api(serve: Any) -> None:
    assert ask(serve(api_key="secret")).choices[0].message.content == ANSWER


# -- a worker that dies, a client that goes ---------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_a_worker_that_dies_before_the_first_token_is_a_server_error(
    serve: Any, stream: bool
) -> None:
    engine = FakeEngine()
    engine.reply = lambda request: engine.die() or "never"  # type: ignore[func-returns-value]
    with pytest.raises(openai.InternalServerError) as caught:
        ask(serve(engine), stream=stream)
    assert (caught.value.status_code, caught.value.code) == (500, "worker_died")


def test_a_worker_that_dies_in_mid_stream_ends_it_with_an_error(serve: Any) -> None:
    api = serve(FakeEngine(reply=lambda request: "word " * 100_000, delay=0.001))
    stream = iter(ask(api, stream=True))
    next(stream)
    api.soon(api.engine.die)
    with pytest.raises(openai.APIError, match="killed"):
        list(stream)


def test_closing_a_stream_cancels_its_request(serve: Any) -> None:
    api = serve(FakeEngine(reply=lambda request: "word " * 100_000, delay=0.001))
    stream = ask(api, stream=True)
    next(iter(stream))
    assert api.engine.running
    stream.close()
    assert api.wait_until(lambda: not api.engine.running)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_before_the_first_token_cancels_its_request(
    api: Any, stream: bool
) -> None:
    api.engine.delay = 600.0
    connection = http.client.HTTPConnection(api.url.split("/")[2], timeout=30)
    body = json.dumps({"messages": QUESTION, "stream": stream})
    connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
    assert api.wait_until(lambda: bool(api.engine.running))
    connection.close()
    assert api.wait_until(lambda: not api.engine.running)


def test_a_reply_that_is_begun_goes_on(api: Any) -> None:
    messages: list[Any] = [
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": "In the"},
    ]
    goes_on = {"continue_final_message": True, "add_generation_prompt": False}
    api.client.chat.completions.create(model="x", messages=messages, extra_body=goes_on)
    assert api.engine.requests[-1].prompt.endswith("<|im_start|>assistant\nIn the")
    with pytest.raises(openai.BadRequestError, match="add_generation_prompt"):
        api.client.chat.completions.create(
            model="x", messages=messages, extra_body=goes_on | {"add_generation_prompt": True}
        )
