"""The engine on the particular answers of vLLM, which are scripted here: no vLLM runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from modules.chat.messages import Message
from modules.engine.protocol import LoadModel, NextTokens, TokenChunk
from modules.engine.remote.connection import Patience
from modules.engine.remote.engine import RemoteEngine
from modules.errors import (
    AdapterError,
    EngineError,
    LoadFailedError,
    PromptTooLongError,
    WorkerDiedError,
)
from tests.engine.remote.helpers import QUESTION, chat, connected, plain, written
from tests.fake_vllm import FakeVllm, fake_vllm

pytestmark = pytest.mark.anyio


@pytest.fixture
def vllm() -> Iterator[FakeVllm]:
    with fake_vllm() as fake:
        yield fake


@pytest.fixture
async def engine(vllm: FakeVllm) -> AsyncIterator[RemoteEngine]:
    async with connected(vllm.url) as engine:
        yield engine


# -- what is served -----------------------------------------------------------------------


async def test_the_model_says_what_the_server_tells_of_it(engine: RemoteEngine) -> None:
    info = engine.state.info
    assert info is not None
    assert (info.name, info.context_length) == ("base", 1000)
    assert info.server is not None
    assert (info.server.kind, info.server.counts_tokens) == ("vLLM", True)
    assert "mirostat_mode" in info.unsupported
    assert "top_k" not in info.unsupported


async def test_a_model_that_is_not_served_is_refused_with_those_that_are(
    engine: RemoteEngine,
) -> None:
    with pytest.raises(LoadFailedError, match="does not serve other") as caught:
        await engine.load(LoadModel("other"))
    assert "base" in str(caught.value)
    assert engine.state.phase == "ready", "the model before is there again"


async def test_loras_are_models_with_a_parent(engine: RemoteEngine, vllm: FakeVllm) -> None:
    assert engine.catalog is not None
    models = await engine.catalog.models()
    assert [model.name for model in models if model.parent] == ["poet", "clerk"]
    await engine.load_adapter("poet", "poet")
    await written(engine, chat())
    assert vllm.bodies[-1]["model"] == "poet"
    await engine.unload_adapter("poet")
    await written(engine, chat())
    assert vllm.bodies[-1]["model"] == "base"


async def test_one_lora_writes_at_a_time(engine: RemoteEngine, vllm: FakeVllm) -> None:
    await engine.load_adapter("poet", "poet")
    await engine.load_adapter("clerk", "clerk")
    await written(engine, chat())
    assert vllm.bodies[-1]["model"] == "clerk"
    engine.weigh_adapters({"poet": 1.0})
    with pytest.raises(AdapterError, match="one LoRA at a time"):
        await written(engine, chat())


async def test_a_lora_is_used_whole_or_not_at_all(engine: RemoteEngine) -> None:
    await engine.load_adapter("poet", "poet")
    with pytest.raises(AdapterError, match="Use weight 1 or 0"):
        engine.weigh_adapters({"poet": 0.5})
    with pytest.raises(AdapterError, match="serves no LoRA painter"):
        await engine.load_adapter("painter", "painter")


# -- tokens ---------------------------------------------------------------------------------


async def test_a_chat_is_counted_under_the_servers_template(engine: RemoteEngine) -> None:
    words = len(QUESTION[0].content.split())
    assert await engine.count_tokens([chat().prompt, "one two"]) == [words + 2, 2]


async def test_a_limit_beyond_the_context_is_cut_to_it(
    engine: RemoteEngine, vllm: FakeVllm
) -> None:
    end = (await written(engine, chat(max_new_tokens=4000))).end
    assert end.reason == "stop"
    assert vllm.bodies[-1]["max_tokens"] == 1000 - vllm.tokenize(vllm.bodies[-1])["count"]


async def test_a_short_prompt_is_sent_without_being_counted(
    engine: RemoteEngine, vllm: FakeVllm
) -> None:
    before = len(vllm.tokenized)
    await written(engine, plain("Hi", max_new_tokens=8))
    assert len(vllm.tokenized) == before


async def test_a_prompt_without_room_is_refused_here(engine: RemoteEngine) -> None:
    with pytest.raises(PromptTooLongError, match="the context holds 1,000"):
        await written(engine, chat((Message("user", "word " * 2000),)))


async def test_tokens_are_shown_as_text(engine: RemoteEngine) -> None:
    encoded = await engine.encode("one two")
    assert encoded.texts == ("one", " two")
    assert await engine.decode([1, 2]) == "1 2"


async def test_a_server_that_does_not_count_leaves_estimates() -> None:
    with fake_vllm(tokenizes=False) as vllm:
        async with connected(vllm.url) as engine:
            assert engine.state.info is not None
            assert engine.state.info.server is not None
            assert not engine.state.info.server.counts_tokens
            (count,) = await engine.count_tokens(["word " * 70])
            assert count == 100
            with pytest.raises(EngineError, match="does not tell tokens"):
                await engine.encode("one two")


async def test_the_chart_has_the_models_own_chances(engine: RemoteEngine) -> None:
    found = await engine.next_tokens(NextTokens(chat(temperature=0.7), 5))
    assert [token.text for token in found.tokens] == [" Paris", " Rome"]
    assert round(found.tokens[0].before, 2) == 0.78
    assert found.tokens[0].after is None


# -- replies --------------------------------------------------------------------------------


async def test_a_reply_comes_word_by_word_with_the_servers_numbers(engine: RemoteEngine) -> None:
    reply = await written(engine, chat())
    assert (reply.text, reply.chunks) == ("Paris is it.", 5)
    usage = reply.end.usage
    assert (usage.completion_tokens, usage.cached_tokens) == (5, 2)
    assert engine.tally.replies["stop"] == 1


async def test_the_seed_is_drawn_here_so_that_a_reply_can_be_had_again(
    engine: RemoteEngine, vllm: FakeVllm
) -> None:
    end = (await written(engine, chat(temperature=1.0))).end
    assert end.seed == vllm.bodies[-1]["seed"] >= 0


async def test_a_stream_without_an_end_is_cut(vllm: FakeVllm, engine: RemoteEngine) -> None:
    vllm.breaks_off = True
    with pytest.raises(WorkerDiedError, match="broke off in mid-reply"):
        await written(engine, chat())
    assert engine.state.phase == "ready", "the server still answers"


async def test_a_server_that_falls_silent_is_not_waited_for_for_ever() -> None:
    with fake_vllm(silent=True) as vllm:
        async with connected(vllm.url, patience=Patience(token=0.2)) as engine:
            with pytest.raises(WorkerDiedError, match="broke off"):
                await written(engine, chat())


async def test_a_cancelled_reply_ends_at_once(vllm: FakeVllm, engine: RemoteEngine) -> None:
    vllm.silent = True
    request = chat()
    events = []
    async with aclosing(engine.generate(request)) as reply:
        async for event in reply:
            events.append(event)
            if isinstance(event, TokenChunk):
                await engine.cancel(request.id)
    assert getattr(events[-1], "reason", None) == "cancelled"
    assert not engine.tally.running


async def test_unloading_fails_the_replies_that_run(vllm: FakeVllm, engine: RemoteEngine) -> None:
    vllm.silent = True
    writing = asyncio.create_task(written(engine, chat()))
    while not engine.tally.running:
        await asyncio.sleep(0.01)
    await engine.unload()
    with pytest.raises(EngineError, match="unloaded"):
        await writing


# -- refusals -------------------------------------------------------------------------------


def said(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "x", "code": None}}


@pytest.mark.parametrize(
    ("status", "body", "told", "remedy"),
    [
        (401, said("Wrong key: sk-secret"), "wants another key", "LANTERN_API_BASE_KEY"),
        (403, {"detail": "no"}, "wants another key", "LANTERN_API_BASE_KEY"),
        (404, said("The model `base` does not exist."), "does not serve base", "Choose another"),
        (404, {"detail": "Not Found"}, "has no /v1/chat/completions", "--api-base"),
        (429, said("Slow down."), "too many requests: Slow down.", "Wait a little"),
        (400, said("maximum context length is 5"), "has no room", "Shorten it"),
        (400, said("System role not supported"), "System role not supported", "chat template"),
        (422, {"detail": [{"msg": "Field required"}]}, "Field required", "chat template"),
        (500, {"message": "CUDA error"}, "failed with 500: CUDA error", "its own log"),
        (502, "<html>", "failed with 502.", "its own log"),
        (200, ["odd"], "broke off", "Continue the reply"),
    ],
)
async def test_a_refusal_is_a_sentence_and_a_way_out(
    vllm: FakeVllm, status: int, body: Any, told: str, remedy: str
) -> None:
    async with connected(vllm.url, key="sk-secret") as engine:
        vllm.answer = (status, body, {})
        with pytest.raises(EngineError) as caught:
            await written(engine, chat())
    assert told in caught.value.message
    assert remedy in caught.value.remedy
    assert "sk-secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_redirect_is_told_and_not_followed(vllm: FakeVllm) -> None:
    with fake_vllm() as elsewhere:
        async with connected(vllm.url, key="sk-secret") as engine:
            there = f"{elsewhere.url}/v1/chat/completions"
            vllm.answer = (307, {}, {"Location": there})
            with pytest.raises(EngineError, match="sends one elsewhere"):
                await written(engine, chat())
        assert elsewhere.seen == []


async def test_an_error_within_the_stream_is_told() -> None:
    class Failing(FakeVllm):
        def choices(self, chat: bool) -> Iterator[dict[str, Any]]:
            yield {"delta": {"content": "Par"}}
            raise RuntimeError

    with fake_vllm() as vllm:
        vllm.choices = Failing().choices  # type: ignore[method-assign]
        async with connected(vllm.url) as engine:
            with pytest.raises(WorkerDiedError, match="broke off"):
                await written(engine, chat())


async def test_sglang_counts_several_texts_at_once_and_has_names_of_its_own_for_loras() -> None:
    with fake_vllm(owner="sglang") as server:
        async with connected(server.url) as engine:
            assert engine.state.info is not None
            assert engine.state.info.architecture == "SGLang"
            assert await engine.count_tokens(["one two", "three"]) == [2, 1]
            assert server.tokenized[-1]["prompt"] == ["one two", "three"]
            (count,) = await engine.count_tokens([chat().prompt])
            assert count > len(QUESTION[0].content.split())
            await engine.load_adapter("poet", "poet")
            await written(engine, chat())
            assert server.bodies[-1]["model"] == "base:poet"
            with pytest.raises(EngineError, match="SGLang cannot go on with a message of yours"):
                await written(engine, chat((Message("user", "And"),), continued=True))
