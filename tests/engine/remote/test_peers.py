"""The engine on real models: Lantern as users start it, and `transformers serve`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modules.chat.messages import Message
from modules.errors import EngineError
from tests.engine.remote.helpers import QUESTION, chat, connected, plain, written
from tests.peers import Peer, lantern_with, transformers_serve
from tests.starter import provide_starter

pytestmark = [pytest.mark.anyio, pytest.mark.starter]


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Peer]]:
    """The same model behind two servers."""
    data: Path = tmp_path_factory.mktemp("second-lantern")
    model = provide_starter()
    with lantern_with(model, data) as ours, transformers_serve(model) as theirs:
        yield {"lantern": ours, "transformers": theirs}


@pytest.mark.parametrize("name", ["lantern", "transformers"])
async def test_both_answer_a_chat_and_go_on_with_a_text(peers: dict[str, Peer], name: str) -> None:
    async with connected(peers[name].url) as engine:
        reply = await written(engine, chat())
        assert "Paris" in reply.text
        assert reply.end.reason == "stop"
        assert reply.chunks > 2
        assert reply.end.usage.prompt_tokens > 10
        text = await written(engine, plain("One, two, three,", stop=(" six",)))
        assert text.text == " four, five,"
        assert text.end.reason == "stop"


async def test_they_write_the_same_greedily(peers: dict[str, Peer]) -> None:
    texts = []
    for peer in peers.values():
        async with connected(peer.url) as engine:
            texts.append((await written(engine, plain("The capital of France is"))).text)
    assert texts[0] == texts[1]


async def test_what_transformers_leaves_out_is_said(peers: dict[str, Peer]) -> None:
    async with connected(peers["transformers"].url) as engine:
        info = engine.state.info
        assert info is not None
        assert info.server is not None
        assert info.server.kind == "transformers serve"
        assert not info.server.counts_tokens
        assert not info.server.tells_context
        assert "top_k" in info.unsupported
        with pytest.raises(EngineError, match="begun"):
            begun = (*QUESTION, Message("assistant", "It is"))
            await written(engine, chat(begun, continued=True))


async def test_lantern_continues_and_keeps_to_a_form(peers: dict[str, Peer]) -> None:
    begun = (*QUESTION, Message("assistant", "The capital of"))
    async with connected(peers["lantern"].url) as engine:
        assert (await written(engine, chat(begun, continued=True))).text == " France is Paris."
        form = chat(structure="regex", structure_text="(yes|no)")
        assert (await written(engine, form)).text in ("yes", "no")
