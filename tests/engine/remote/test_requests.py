"""What each kind of server is told of the same request."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from modules.chat.messages import Message
from modules.engine.params import knobs
from modules.engine.remote.kinds import LANTERN, PLAIN, SGLANG, TRANSFORMERS, VLLM, kind_of
from modules.engine.remote.requests import call_of
from modules.errors import EngineError, InvalidInputError
from tests.engine.remote.helpers import chat, plain

BEGUN = (Message("user", "Hi"), Message("assistant", "Well"))
SCHEMA = {"structure": "json_schema", "structure_text": '{"type": "object"}'}


def body(kind: Any, **params: Any) -> dict[str, Any]:
    params = {"temperature": 0.5, "seed": 1} | params
    return dict(call_of(kind, "base", plain("Once", **params)).body)


def test_the_kind_is_told_by_who_owns_the_models() -> None:
    assert kind_of([{"owned_by": "vllm"}]) is VLLM
    assert kind_of([{"owned_by": "sglang"}]) is SGLANG
    assert kind_of([{"owned_by": "lantern"}]) is LANTERN
    assert kind_of([{"owned_by": "me", "status": {"value": "loaded"}}]) is TRANSFORMERS
    assert kind_of([{"owned_by": ["odd"]}, {}]) is PLAIN


def test_what_a_server_does_not_know_is_not_sent() -> None:
    odd = {"top_k": 40, "min_p": 0.1, "top_a": 0.2, "mirostat_mode": 2, "dry_multiplier": 0.8}
    assert body(PLAIN, **odd).keys().isdisjoint(odd)
    told = body(VLLM, **odd)
    assert (told["top_k"], told["min_p"]) == (40, 0.1)
    assert told.keys().isdisjoint({"top_a", "mirostat_mode", "dry_multiplier"})


def test_another_lantern_gets_every_parameter_that_changes_something() -> None:
    told = body(LANTERN, top_a=0.2, sampler_priority=("top_k",), logit_bias=("5:-1",))
    assert (told["top_a"], told["sampler_priority"], told["logit_bias"]) == (
        0.2, ["top_k"], ["5:-1"],
    )  # fmt: skip
    assert "top_p" not in told


def test_what_is_ignored_and_what_is_sent_are_all_parameters() -> None:
    for kind in (PLAIN, VLLM, SGLANG, LANTERN, TRANSFORMERS):
        assert {*kind.knows, *kind.unsupported} == set(knobs())


@pytest.mark.parametrize("kind", [PLAIN, VLLM, SGLANG, TRANSFORMERS])
def test_greedy_is_temperature_0_and_no_cut_off(kind: Any) -> None:
    told = body(kind, do_sample=False, temperature=0.9, top_p=0.5, top_k=7)
    assert told["temperature"] == 0
    assert "top_p" not in told
    assert told.get("top_k", -1) == -1


def test_vllm_is_told_that_there_is_no_cut_off_where_its_model_would_have_one() -> None:
    assert (body(VLLM)["top_k"], body(VLLM)["min_p"], body(VLLM)["repetition_penalty"]) == (
        -1, 0.0, 1.0,
    )  # fmt: skip


def test_banned_tokens_are_biases() -> None:
    told = body(PLAIN, custom_token_bans=("9",), logit_bias=("5:-1.5",))
    assert told["logit_bias"] == {"5": -1.5, "9": -100.0}


def test_a_chat_goes_as_messages_and_a_text_as_a_prompt() -> None:
    call = call_of(VLLM, "base", chat())
    assert (call.path, call.chat) == ("/chat/completions", True)
    assert call.body["messages"] == [{"role": "user", "content": "What is the capital of France?"}]
    call = call_of(VLLM, "base", plain("Once"))
    assert (call.path, call.body["prompt"]) == ("/completions", "Once")


def test_a_text_that_looks_like_a_chat_stays_a_text() -> None:
    request = dataclasses.replace(chat(), special_tokens=True)
    assert call_of(VLLM, "base", request).path == "/completions"


@pytest.mark.parametrize("kind", [VLLM, SGLANG, LANTERN])
def test_a_reply_that_is_begun_goes_on(kind: Any) -> None:
    told = call_of(kind, "base", chat(BEGUN, continued=True)).body
    assert told["messages"][-1] == {"role": "assistant", "content": "Well"}
    assert told["continue_final_message"]
    assert not told["add_generation_prompt"]


@pytest.mark.parametrize(("kind", "messages"), [
    (PLAIN, BEGUN), (TRANSFORMERS, BEGUN), (SGLANG, (Message("user", "I think"),)),
])  # fmt: skip
def test_a_server_that_cannot_go_on_says_so_with_a_way_out(kind: Any, messages: Any) -> None:
    with pytest.raises(EngineError, match="begun") as caught:
        call_of(kind, "base", chat(messages, continued=True))
    assert "chat template" in caught.value.remedy


def test_a_message_of_nothing_cannot_be_gone_on_with() -> None:
    with pytest.raises(EngineError, match="begun"):
        call_of(VLLM, "base", chat((Message("user", ""),), continued=True))


def test_forms_of_a_reply_are_in_the_words_of_each_server() -> None:
    form = body(PLAIN, **SCHEMA)["response_format"]
    assert form["json_schema"]["schema"] == json.loads(SCHEMA["structure_text"])
    regex = {"structure": "regex", "structure_text": "a+"}
    assert body(VLLM, **regex)["structured_outputs"] == {"regex": "a+"}
    assert body(SGLANG, **regex)["regex"] == "a+"
    assert body(LANTERN, **regex)["structure"] == "regex"


def test_a_form_that_a_server_does_not_know_is_refused_and_not_passed_over() -> None:
    with pytest.raises(EngineError, match="form regex"):
        body(PLAIN, structure="regex", structure_text="a+")
    with pytest.raises(EngineError, match="form json"):
        body(TRANSFORMERS, structure="json")


def test_a_schema_that_is_no_json_is_named() -> None:
    with pytest.raises(InvalidInputError) as caught:
        body(VLLM, structure="json_schema", structure_text="{")
    assert caught.value.field == "structure_text"


def test_no_server_gets_more_stop_strings_than_it_takes() -> None:
    request = plain("x", stop=tuple("abcdef"))
    assert call_of(PLAIN, "base", request).body["stop"] == list("abcd")
    assert call_of(VLLM, "base", request).body["stop"] == list("abcdef")
