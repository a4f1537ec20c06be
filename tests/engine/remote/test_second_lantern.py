"""The engine on Lantern's own API in another process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing

import pytest

from modules.chat.messages import Message
from modules.engine.protocol import LoadModel, NextTokens
from modules.engine.remote.address import ServerAddress
from modules.engine.remote.engine import RemoteEngine
from modules.errors import EngineError, LoadFailedError, NoModelError, WorkerDiedError
from tests.engine.remote.helpers import QUESTION, chat, connected, plain, written
from tests.peers import Peer, free_port, second_lantern

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    """One that says what it was sent."""
    with second_lantern() as peer:
        yield peer


async def test_the_server_applies_its_own_template(peer: Peer) -> None:
    async with connected(peer.url) as engine:
        reply = await written(engine, chat(max_new_tokens=100))
    assert "<|im_start|>user\nWhat is the capital of France?<|im_end|>" in reply.text
    assert reply.text.endswith("<|im_start|>assistant\n")


async def test_a_begun_reply_and_a_begun_question_go_on(peer: Peer) -> None:
    begun = (*QUESTION, Message("assistant", "It is"))
    mine = (Message("user", "I wonder"),)
    async with connected(peer.url) as engine:
        theirs = await written(engine, chat(begun, continued=True, max_new_tokens=100))
        ours = await written(engine, chat(mine, continued=True, max_new_tokens=100))
    assert theirs.text.endswith("<|im_start|>assistant\nIt is")
    assert ours.text.endswith("<|im_start|>user\nI wonder")


async def test_every_parameter_reaches_it(peer: Peer) -> None:
    async with connected(peer.url) as engine:
        assert engine.state.info is not None
        assert engine.state.info.unsupported == ()
        reply = await written(engine, plain("a b", top_a=0.1, mirostat_mode=2, stop=("b",)))
    assert reply.text == "You sent: a "
    assert reply.end.reason == "stop"


async def test_tokens_chances_and_vectors_are_its_own(peer: Peer) -> None:
    async with connected(peer.url) as engine:
        assert await engine.count_tokens(["one two three"]) == [3]
        encoded = await engine.encode("one two")
        assert await engine.decode(list(encoded.ids)) == "one two"
        found = await engine.next_tokens(NextTokens(plain("x", temperature=0.5), 3))
        assert (found.tokens[0].text, found.tokens[0].before) == ("You", 0.5)
        assert found.tokens[0].after is not None
        assert len((await engine.embed("one two")).vector) == 8


async def test_a_limit_ends_a_reply(peer: Peer) -> None:
    async with connected(peer.url) as engine:
        end = (await written(engine, plain("a b c d e", max_new_tokens=3))).end
    assert (end.reason, end.usage.completion_tokens, end.usage.prompt_tokens) == ("length", 3, 6)


async def test_closing_early_ends_the_reply_there() -> None:
    with second_lantern(delay=0.05, reply="word " * 400) as peer:
        async with connected(peer.url) as engine:
            async with aclosing(engine.generate(plain("x", max_new_tokens=400))) as reply:
                await anext(reply)
            assert peer.wait_until_idle()
            request = plain("x", max_new_tokens=400)
            async with aclosing(engine.generate(request)) as reply:
                await anext(reply)
                await engine.cancel(request.id)
                assert getattr([event async for event in reply][-1], "reason", "") == "cancelled"
            assert peer.wait_until_idle()


async def test_a_server_that_is_killed_in_mid_reply_crashes_the_engine_until_it_is_back() -> None:
    port = free_port()
    with second_lantern(port, delay=0.05, reply="word " * 400) as peer:
        async with connected(peer.url) as engine:
            with pytest.raises(WorkerDiedError, match="broke off"):
                async with aclosing(engine.generate(plain("x", max_new_tokens=400))) as reply:
                    await anext(reply)
                    peer.kill()
                    async for _ in reply:
                        pass
            assert engine.state.phase == "crashed"
            assert engine.state.path == "second-model"
            with pytest.raises(NoModelError):
                await written(engine, plain("x"))
            with second_lantern(port):
                # It is found by itself, without anybody who loads it again.
                async with asyncio.timeout(60):
                    seen = -1
                    while engine.state.phase != "ready":
                        seen = await engine.changed.wait(seen)
                assert (await written(engine, plain("x"))).text == "You sent: x"


async def test_load_again_reconnects() -> None:
    port = free_port()
    engine = RemoteEngine(ServerAddress.of(f"http://127.0.0.1:{port}"))
    with pytest.raises(LoadFailedError, match="does not answer") as caught:
        await engine.load(LoadModel("second-model"))
    assert "--api-base" in caught.value.remedy
    assert engine.state.phase == "crashed"
    with second_lantern(port):
        await engine.load(LoadModel(engine.state.path))
        assert engine.state.phase == "ready"
    await engine.close()


async def test_a_key_opens_it_and_a_wrong_one_is_told_without_being_shown() -> None:
    with second_lantern(key="right-key") as peer:
        async with connected(peer.url, key="right-key") as engine:
            assert (await written(engine, plain("x"))).text == "You sent: x"
        with pytest.raises(LoadFailedError, match="wants another key") as caught:
            async with connected(peer.url, key="wrong-key"):
                pass
    assert "wrong-key" not in str(caught.value)


async def test_an_address_of_something_else_is_told(peer: Peer) -> None:
    with pytest.raises(LoadFailedError, match="has no /elsewhere/models"):
        async with connected(f"{peer.url}/elsewhere"):
            pass


async def test_a_request_before_a_model_is_refused(peer: Peer) -> None:
    engine = RemoteEngine(ServerAddress.of(peer.url))
    with pytest.raises(NoModelError):
        await engine.count_tokens(["x"])
    with pytest.raises(EngineError):
        await written(engine, plain("x"))
    await engine.close()
