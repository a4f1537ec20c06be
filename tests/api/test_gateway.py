"""Lantern's API over a server elsewhere: a gateway to another Lantern, or to vLLM."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import openai
import pytest

from modules.engine.protocol import LoadModel
from modules.engine.remote.address import ServerAddress
from modules.engine.remote.engine import RemoteEngine
from tests.fake_vllm import FakeVllm, fake_vllm
from tests.peers import Peer, second_lantern

if TYPE_CHECKING:
    from tests.api.conftest import Serve, Served

FIRST = LoadModel("")
HELLO: list[Any] = [{"role": "user", "content": "Hello?"}]
WEATHER: Any = {"type": "function", "function": {"name": "weather", "description": "Tells it."}}


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    with second_lantern() as peer:
        yield peer


@pytest.fixture
def vllm() -> Iterator[FakeVllm]:
    with fake_vllm(context=4096) as fake:
        yield fake


def gateway(serve: Serve, url: str) -> Served:
    return serve(RemoteEngine(ServerAddress.of(url)), FIRST)


def test_a_chat_goes_through_whole_and_streamed(serve: Serve, peer: Peer) -> None:
    client = gateway(serve, peer.url).client
    assert [model.id for model in client.models.list()] == ["second-model"]
    whole = client.chat.completions.create(model="second-model", messages=HELLO)
    assert "<|im_start|>user\nHello?" in str(whole.choices[0].message.content)
    assert whole.usage is not None
    assert whole.usage.completion_tokens > 3
    stream = client.chat.completions.create(model="second-model", messages=HELLO, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == whole.choices[0].message.content


def test_texts_log_probabilities_and_vectors_go_through(serve: Serve, peer: Peer) -> None:
    client = gateway(serve, peer.url).client
    text = client.completions.create(model="x", prompt="Once", logprobs=2, max_tokens=2)
    assert text.choices[0].text == "You sent:"
    assert text.choices[0].logprobs is not None
    assert text.choices[0].logprobs.tokens == ["You", " sent:"]
    assert len(client.embeddings.create(model="x", input="Once").data[0].embedding) == 8


def test_a_client_that_leaves_ends_the_reply_at_the_far_end(serve: Serve) -> None:
    with second_lantern(delay=0.05, reply="word " * 400) as peer:
        client = gateway(serve, peer.url).client
        stream = client.chat.completions.create(model="x", messages=HELLO, stream=True)
        next(iter(stream))
        assert peer.running
        stream.close()
        assert peer.wait_until_idle()


def test_tools_are_told_in_words_and_their_calls_read(serve: Serve, vllm: FakeVllm) -> None:
    vllm.words = ['<tool_call>\n{"name": "weather", ', '"arguments": {}}', "\n</tool_call>"]
    client = gateway(serve, vllm.url).client
    reply = client.chat.completions.create(model="base", messages=HELLO, tools=[WEATHER])
    (call,) = reply.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "weather"
    assert "weather" in vllm.bodies[-1]["messages"][0]["content"]
    assert "tools" not in vllm.bodies[-1]


def test_a_call_that_is_forced_begins_the_reply(serve: Serve, vllm: FakeVllm) -> None:
    vllm.words = ['{"name": "weather", "arguments": {}}']
    client = gateway(serve, vllm.url).client
    reply = client.chat.completions.create(
        model="base", messages=HELLO, tools=[WEATHER], tool_choice="required"
    )
    assert reply.choices[0].finish_reason == "tool_calls"
    body = vllm.bodies[-1]
    assert body["messages"][-1] == {"role": "assistant", "content": "<tool_call>\n"}
    assert body["response_format"]["type"] == "json_schema"


def test_a_parameter_that_the_server_does_not_know_is_refused(serve: Serve, vllm: FakeVllm) -> None:
    client = gateway(serve, vllm.url).client
    with pytest.raises(openai.BadRequestError, match="does not know top_a"):
        client.chat.completions.create(model="x", messages=HELLO, extra_body={"top_a": 0.2})
    with pytest.raises(openai.InternalServerError, match="parameters make of it"):
        body = {"prompt": "x", "use_samplers": True}
        client.post("/internal/logits", body=body, cast_to=object)


def test_models_and_loras_of_the_server_are_loaded_over_the_api(
    serve: Serve, vllm: FakeVllm
) -> None:
    served = gateway(serve, vllm.url)
    listed = served.client.get("/internal/model/list", cast_to=object)
    assert listed == {"model_names": ["base"]}
    assert served.client.get("/internal/lora/list", cast_to=object) == {
        "lora_names": ["poet", "clerk"]
    }
    found = served.post("/internal/lora/load", json={"lora_names": ["poet"]}).json()
    assert found["lora_names"] == ["poet"]


def test_a_server_that_dies_in_mid_reply_is_told_in_the_stream(serve: Serve) -> None:
    with second_lantern(delay=0.05, reply="word " * 400) as peer:
        served = gateway(serve, peer.url)
        stream = served.client.chat.completions.create(model="x", messages=HELLO, stream=True)
        next(iter(stream))
        peer.kill()
        with pytest.raises(openai.APIError, match="broke off"):
            list(stream)
        deadline = time.monotonic() + 20
        while served.engine.state.phase != "crashed" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert served.engine.state.phase == "crashed"
