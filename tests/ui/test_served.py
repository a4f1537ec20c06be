"""The page over a server elsewhere: what it lists, chooses, says and refuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from modules.access import Access, AccessMiddleware
from modules.context import AppContext
from modules.engine.choice import engine_for
from modules.engine.local import LocalEngine
from modules.engine.params import SamplingParams
from modules.engine.protocol import ModelInfo, ServerInfo
from modules.settings import Settings
from modules.ui import models
from modules.ui.components.knobs import to_widgets
from modules.ui.routes import add_routes
from modules.ui.served import details
from server import build_context
from tests.chats import asked
from tests.fake_vllm import FakeVllm, fake_vllm

pytestmark = pytest.mark.anyio

VALUES = to_widgets(SamplingParams())


@pytest.fixture
def vllm() -> Iterator[FakeVllm]:
    with fake_vllm(context=4096) as fake:
        yield fake


@pytest.fixture
async def ctx(settings: Settings, vllm: FakeVllm) -> AsyncIterator[AppContext]:
    """A Lantern that was started with --loader openai, once its model answers."""
    told: dict[str, Any] = {
        name: getattr(settings, name) for name in ("user_data_dir", "model_dir", "lora_dir")
    }
    settings = Settings(loader="openai", api_base=vllm.url, lora=("poet",), **told)
    ctx = build_context(settings, engine_for(settings), Access())
    models.begin(ctx)
    await ctx.jobs.jobs()[-1].wait()
    yield ctx
    await ctx.chats.close()
    await ctx.jobs.close()
    await ctx.engine.close()
    for store in ctx.chats._stores.both:
        store.close()


@pytest.fixture
async def client(ctx: AppContext) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    add_routes(app, ctx)
    app.add_middleware(AccessMiddleware, access=Access())
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 5000))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1/page") as opened:
        yield opened


def test_only_an_address_has_a_server_asked(settings: Settings) -> None:
    assert isinstance(engine_for(settings), LocalEngine)
    assert engine_for(Settings(api_base="http://127.0.0.1:1")).catalog is not None


async def test_a_launch_chooses_the_first_model_and_applies_its_loras(ctx: AppContext) -> None:
    found = models.engine_json(ctx, admin=True)
    assert (found["phase"], found["model"], found["loaded"]) == ("ready", "base", "base")
    assert found["details"][0].startswith("vLLM at 127.0.0.1:")
    assert found["details"][-1] == "LoRA poet at 1"
    assert "mirostat_mode" in found["unsupported"]


async def test_the_model_tab_lists_what_is_served(client: httpx.AsyncClient) -> None:
    found = (await client.get("/models")).json()
    assert [(one["name"], one["kind"]) for one in found["models"]] == [("base", "4,096 tokens")]
    assert found["server"].startswith("Served by 127.0.0.1:")
    loras = (await client.get("/adapters")).json()["adapters"]
    assert [(one["name"], one["base"]) for one in loras] == [("poet", "base"), ("clerk", "base")]


async def test_the_card_says_where_the_model_is(client: httpx.AsyncClient) -> None:
    found = (await client.post("/models/card", json={"name": "base"})).json()
    assert ["Kind", "vLLM"] in found["card"]["rows"]
    assert found["plan"]["fits"]
    assert found["template"]["choices"][0] == ["", "Automatic: the server's own"]
    refused = await client.post("/models/card", json={"name": "../etc"})
    assert "does not serve ../etc" in refused.text


async def test_a_chosen_template_has_lantern_write_the_prompt(
    ctx: AppContext, client: httpx.AsyncClient, vllm: FakeVllm
) -> None:
    await asked(ctx.chats, "Hello?")
    assert vllm.bodies[-1]["messages"] == [{"role": "user", "content": "Hello?"}]
    await client.post("/models/template/choose", json={"name": "base", "template": "chatml"})
    await asked(ctx.chats, "Hello?")
    assert vllm.bodies[-1]["prompt"].startswith("<|im_start|>user\nHello?")


async def test_a_chat_goes_on_regenerates_and_impersonates(ctx: AppContext, vllm: FakeVllm) -> None:
    chats, params = ctx.chats, SamplingParams(max_new_tokens=20)
    chat = await asked(chats, "Where?")
    (_, reply) = await chats.branch(chat, "owner")
    assert (reply.content, reply.state) == ("Paris is it.", "complete")
    assert reply.about["model"] == "base"
    assert reply.about["adapters"] == [["poet", 1.0]]
    await chats.continue_reply(chat, "owner", reply.id, params)
    await chats.wait(chat)
    assert vllm.bodies[-1]["messages"][-1] == {"role": "assistant", "content": "Paris is it."}
    assert vllm.bodies[-1]["continue_final_message"]
    await chats.regenerate(chat, "owner", reply.id, params)
    await chats.wait(chat)
    assert vllm.bodies[-1]["messages"][-1]["role"] == "user"
    mine = await chats.impersonate(chat, "owner", "And so I", params)
    assert "".join([piece async for piece in mine.pieces()]) == "Paris is it."
    assert vllm.bodies[-1]["messages"][-1] == {"role": "user", "content": "And so I"}


async def test_the_oldest_turns_are_left_out_by_the_servers_count(
    ctx: AppContext, vllm: FakeVllm
) -> None:
    params = SamplingParams(max_new_tokens=20, truncation_length=256)
    chat = await asked(ctx.chats, "word " * 150, params=params)
    await ctx.chats.send(chat, "owner", "word " * 150, params)
    await ctx.chats.wait(chat)
    assert len(vllm.bodies[-1]["messages"]) == 1


async def test_a_transcript_is_plain_text(ctx: AppContext, vllm: FakeVllm) -> None:
    await asked(ctx.chats, "Hello?", mode="chat")
    assert vllm.bodies[-1]["prompt"] == "You: Hello?\nAssistant:"
    assert "\nYou:" in vllm.bodies[-1]["stop"]


async def test_a_reply_that_the_server_breaks_off_is_shown_as_cut(
    ctx: AppContext, vllm: FakeVllm
) -> None:
    vllm.breaks_off = True
    chat = await asked(ctx.chats, "Where?")
    (_, reply) = await ctx.chats.branch(chat, "owner")
    assert (reply.content, reply.state) == ("Paris is it.", "cut")
    assert "broke off" in reply.error


async def test_tokens_and_chances_of_a_chat_are_shown(client: httpx.AsyncClient) -> None:
    counted = (await client.post("/look/count", json={"text": "one two"})).json()
    assert counted == {"tokens": 2, "context": 4096}
    asked_for = {"text": "Where?", "plain": False, "values": VALUES}
    found = (await client.post("/look/next", json=asked_for)).json()
    assert found["tokens"][0]["text"] == " Paris"
    assert found["tokens"][0]["after"] is None


async def test_load_again_keeps_the_loras(ctx: AppContext, client: httpx.AsyncClient) -> None:
    assert (await client.post("/models/again")).status_code == 200
    await ctx.jobs.jobs()[-1].wait()
    assert [one.info.name for one in ctx.engine.state.adapters] == ["poet"]
    assert (await client.post("/models/load", json={"name": "nothing"})).status_code == 200
    job = ctx.jobs.jobs()[-1]
    await job.wait()
    assert job.error is not None
    assert "does not serve nothing" in str(job.error)
    await asyncio.sleep(0)
    assert ctx.engine.state.phase == "ready"


def test_what_is_only_assumed_is_said_to_be_so() -> None:
    info = ModelInfo(
        name="m", path="m", architecture="x", parameters=0, dtype="", quantization="none",
        device="", context_length=8192, memory=0, chat_template=None,
        server=ServerInfo("OpenAI API", "gpu1", counts_tokens=False, tells_context=False),
    )  # fmt: skip
    assert details(info) == [
        "OpenAI API at gpu1",
        "context 8,192 (assumed; --ctx-size says otherwise)",
        "numbers of tokens are estimates",
    ]
