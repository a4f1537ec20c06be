"""The routes of the Model tab: the card, the options that fit, the plan, settings, LoRAs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from modules.access import AccessMiddleware
from modules.context import AppContext
from modules.engine.fake import FakeEngine
from modules.engine.protocol import LoadModel
from modules.errors import AdapterError
from modules.loader.machine import Card, Ending, Machine
from modules.ui import planning
from modules.ui.routes import add_routes
from tests.folders import TINY, put_llama, put_lora
from tests.loader.folders import make_model
from tests.loader.shapes import GPTQ, LLAMA_2_7B, LLAMA_2_70B

pytestmark = pytest.mark.anyio

CARD = Card(0, "NVIDIA GeForce RTX 3090", 24 * 10**9, 23 * 10**9, (8, 6))


def use_machine(monkeypatch: pytest.MonkeyPatch, *cards: Card) -> None:
    there = Machine(cards, ram_total=64 * 10**9, ram_free=40 * 10**9, disk_free=300 * 10**9)
    monkeypatch.setattr(planning, "this_machine", lambda *_, **__: there)


@pytest.fixture(autouse=True)
def a_machine_with_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    use_machine(monkeypatch, CARD)


@pytest.fixture
async def owner(ctx: AppContext) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    add_routes(app, ctx)
    app.add_middleware(AccessMiddleware, access=ctx.access)
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 5000))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as opened:
        opened.headers["content-type"] = "application/json"
        yield opened
    await ctx.jobs.close()


async def asked(owner: httpx.AsyncClient, path: str, **body: Any) -> Any:
    answer = await owner.post(f"/page/{path}", content=json.dumps(body))
    assert (answer.status_code, answer.text) == (200, answer.text)
    return answer.json()


async def controls(owner: httpx.AsyncClient, name: str) -> list[str]:
    return [
        control["name"] for control in (await asked(owner, "models/card", name=name))["controls"]
    ]


# -- the list and the card --------------------------------------------------------------


async def test_the_list_says_what_each_model_is_and_whether_it_fits(
    ctx: AppContext, owner: httpx.AsyncClient
) -> None:
    models = ctx.settings.model_dir
    put_llama(models, "Large", LLAMA_2_70B)
    put_llama(models, "Packed", LLAMA_2_7B, GPTQ)
    make_model(models, "Broken", model__safetensors=b"{")
    listed = {m["name"]: m for m in (await owner.get("/page/models")).json()["models"]}
    assert (listed["Large"]["kind"], listed["Large"]["fits"]) == ("float16", False)
    assert (listed["Packed"]["kind"], listed["Packed"]["fits"]) == ("GPTQ 4-bit", True)
    assert "damaged" in listed["Broken"]["problem"]
    assert listed["Packed"]["size"].endswith("GB")


async def test_a_damaged_settings_file_does_not_hide_the_models(
    ctx: AppContext, owner: httpx.AsyncClient
) -> None:
    put_llama(ctx.settings.model_dir, "Tiny", TINY)
    ctx.settings.models_yaml.write_text("Tiny: [")
    assert (await owner.get("/page/models")).json()["models"][0]["name"] == "Tiny"
    refused = await owner.post("/page/models/card", content='{"name": "Tiny"}')
    assert (refused.status_code, "models.yaml" in refused.text) == (400, True)


async def test_the_card_is_in_words(ctx: AppContext, owner: httpx.AsyncClient) -> None:
    put_llama(ctx.settings.model_dir, "Packed", LLAMA_2_70B, GPTQ)
    card = (await asked(owner, "models/card", name="Packed"))["card"]
    rows = dict(card["rows"])
    assert rows["Weights"] == "GPTQ, 4 bits, groups of 128, symmetric, format v1"
    assert rows["Attention"] == "80 layers, 64 heads, 8 key/value heads"
    assert rows["Parameters"] == "69.0 billion"
    assert rows["Context"] == "4,096 tokens"
    assert rows["Chat template"] == "yes, from chat_template.jinja"
    assert rows["Safe to load"].startswith("yes")
    assert [name for name, _ in card["files"]] == sorted(name for name, _ in card["files"])


async def test_a_model_that_would_run_code_is_called_unsafe(
    ctx: AppContext, owner: httpx.AsyncClient
) -> None:
    make_model(
        ctx.settings.model_dir, "Bad", config__json={"model_type": "x", "auto_map": {"a": "b"}}
    )
    found = await asked(owner, "models/card", name="Bad")
    assert dict(found["card"]["rows"])["Safe to load"] == "no"
    assert found["card"]["remedy"]
    assert found["plan"]["problem"] == found["card"]["problem"]


# -- the chat template ------------------------------------------------------------------


async def test_a_model_without_a_template_gets_one_with_a_reason(
    ctx: AppContext, owner: httpx.AsyncClient
) -> None:
    make_model(ctx.settings.model_dir, "Llama-2-7B-Chat-GPTQ")
    found = (await asked(owner, "models/card", name="Llama-2-7B-Chat-GPTQ"))["template"]
    assert found["reason"] == "Its name has “llama-2-7b-chat”, so Llama-2 chat."
    assert found["choices"][0] == ["", "Automatic: Llama-2 chat"]
    assert ["alpaca", "Alpaca"] in found["choices"]
    assert (found["chosen"], found["check"]) == ("", None)
    assert found["origin"].startswith("https://")


async def test_a_template_chosen_by_hand_is_kept_and_checked_on_the_loaded_model(
    ctx: AppContext, owner: httpx.AsyncClient, engine: FakeEngine
) -> None:
    path = put_llama(ctx.settings.model_dir, "Tiny", TINY)
    await engine.load(LoadModel(str(path)))
    assert (await asked(owner, "models/template", name="Tiny"))["check"] == []
    chosen = await asked(owner, "models/template/choose", name="Tiny", template="alpaca")
    assert (chosen["chosen"], chosen["reason"]) == ("alpaca", "Chosen by hand.")
    assert "departs from the model's own template" in chosen["check"][0]
    again = await asked(owner, "models/template/choose", name="Tiny", template="")
    assert (again["chosen"], again["check"]) == ("", [])


async def test_an_unknown_template_is_refused(ctx: AppContext, owner: httpx.AsyncClient) -> None:
    put_llama(ctx.settings.model_dir, "Tiny", TINY)
    body = json.dumps({"name": "Tiny", "template": "../../secret"})
    answer = await owner.post("/page/models/template/choose", content=body)
    assert (answer.status_code, bool(answer.json()["remedy"])) == (400, True)


# -- the options that fit ---------------------------------------------------------------


async def test_only_16_bit_weights_are_offered_to_be_quantized(
    ctx: AppContext, owner: httpx.AsyncClient
) -> None:
    put_llama(ctx.settings.model_dir, "Plain", TINY)
    put_llama(ctx.settings.model_dir, "Packed", LLAMA_2_7B, GPTQ)
    assert "quantize" in await controls(owner, "Plain")
    assert "quantize" not in await controls(owner, "Packed")


async def test_bits_and_group_size_are_asked_only_of_checkpoints_that_tell_none(
    ctx: AppContext, owner: httpx.AsyncClient
) -> None:
    put_llama(ctx.settings.model_dir, "Packed", LLAMA_2_7B, GPTQ)
    old = put_llama(ctx.settings.model_dir, "Old", LLAMA_2_7B, GPTQ)
    (old / "quantize_config.json").unlink()
    asked_for = {"wbits", "groupsize"}
    assert asked_for <= set(await controls(owner, "Old"))
    assert not asked_for & set(await controls(owner, "Packed"))


async def test_without_a_card_nothing_is_asked_about_cards(
    ctx: AppContext, owner: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_llama(ctx.settings.model_dir, "Tiny", TINY)
    about_cards = {"device", "gpu_memory", "offload", "cpu_memory", "disk", "cache_tokens"}
    assert about_cards <= set(await controls(owner, "Tiny"))
    use_machine(monkeypatch)
    there = {"context_length", "cache_type", "quantize", "dtype"}
    assert set(await controls(owner, "Tiny")) == there


async def test_the_cache_is_asked_about_only_of_models_that_have_one(
    ctx: AppContext, owner: httpx.AsyncClient
) -> None:
    put_llama(ctx.settings.model_dir, "Tiny", TINY)
    other = put_llama(ctx.settings.model_dir, "Other", TINY) / "config.json"
    other.write_text(other.read_text().replace('"llama"', '"gpt_neox"'))
    asked_for = {"cache_tokens", "cache_type"}
    assert asked_for <= set(await controls(owner, "Tiny"))
    assert not asked_for & set(await controls(owner, "Other"))


async def test_each_card_has_its_own_limit(
    ctx: AppContext, owner: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_llama(ctx.settings.model_dir, "Tiny", TINY)
    use_machine(monkeypatch, CARD, Card(1, "Other", 8 * 10**9, 8 * 10**9))
    shown = (await asked(owner, "models/card", name="Tiny"))["controls"]
    limits = [(c["index"], c["max"]) for c in shown if c["name"] == "gpu_memory"]
    assert limits == [(0, 24), (1, 8)]


@pytest.mark.parametrize("installed", [True, False])
async def test_gptqmodel_is_offered_where_it_is_installed(
    installed: bool, ctx: AppContext, owner: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_llama(ctx.settings.model_dir, "Packed", LLAMA_2_7B, GPTQ)
    found = object() if installed else None
    monkeypatch.setattr("modules.ui.model_card.find_spec", lambda name: found)
    assert ("loader" in await controls(owner, "Packed")) is installed


# -- the plan ---------------------------------------------------------------------------


async def test_the_plan_moves_with_the_context(ctx: AppContext, owner: httpx.AsyncClient) -> None:
    put_llama(ctx.settings.model_dir, "Packed", LLAMA_2_7B, GPTQ)

    async def cache(context: int) -> int:
        body = {"name": "Packed", "options": {"context_length": context}}
        plan = await asked(owner, "models/plan", **body)
        (device,) = plan["devices"]
        parts = {part["key"]: part["bytes"] for part in device["parts"]}
        assert sum(parts.values()) == device["used"]
        return parts["cache"]

    assert await cache(4096) > await cache(2048) > 0


async def test_the_plan_says_how_many_chats_there_is_room_for(
    ctx: AppContext, owner: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_llama(ctx.settings.model_dir, "Packed", LLAMA_2_7B, GPTQ)

    async def said(**options: Any) -> str:
        return (await asked(owner, "models/plan", name="Packed", options=options))["cache"]

    assert await said(cache_tokens=20_000) == (
        "KV cache for 20,000 tokens: room for 4 chats of 4,096, or more shorter ones."
    )
    assert "for 20,000 tokens in 8 bits: room" in await said(
        cache_tokens=20_000, cache_type="8-bit"
    )
    assert "room for one chat of 4,096" in await said(cache_tokens=1)
    assert "room for 12 chats of 1,024" in await said(context_length=1024)
    use_machine(monkeypatch)
    assert await said() == ""


async def test_a_refusal_names_ways_that_fit(ctx: AppContext, owner: httpx.AsyncClient) -> None:
    put_llama(ctx.settings.model_dir, "Large", LLAMA_2_70B)
    plan = (await asked(owner, "models/card", name="Large"))["plan"]
    assert not plan["fits"]
    assert plan["message"]
    for choice in plan["choices"]:
        again = await asked(owner, "models/plan", name="Large", options=choice["changes"])
        assert (choice["label"], again["fits"]) == (choice["label"], True)


@pytest.mark.parametrize(
    "options",
    [{"context_length": -1}, {"dtype": "int3"}, {"gpu_memory": [-5]}, {"wbits": 5},
     {"cache_tokens": 2**21}, {"groupsize": 0}, {"cpu_memory": 2**60}, {"gpu_memory": [1] * 100},
     {"offload": []}],
)  # fmt: skip
async def test_options_out_of_bounds_are_refused(
    options: dict[str, Any], ctx: AppContext, owner: httpx.AsyncClient
) -> None:
    put_llama(ctx.settings.model_dir, "Tiny", TINY)
    for path in ("models/plan", "models/load", "models/settings/save"):
        body = json.dumps({"name": "Tiny", "options": options})
        answer = await owner.post(f"/page/{path}", content=body)
        assert (path, answer.status_code, bool(answer.json()["remedy"])) == (path, 400, True)
    assert ctx.jobs.jobs() == []


# -- load, and keep settings ------------------------------------------------------------


async def test_a_model_is_loaded_by_the_options_that_were_set(
    ctx: AppContext, owner: httpx.AsyncClient, engine: FakeEngine
) -> None:
    put_llama(ctx.settings.model_dir, "Tiny", TINY)
    await asked(owner, "models/load", name="Tiny", options={"context_length": 512, "device": "cpu"})
    await ctx.jobs.jobs()[-1].wait()
    assert engine.state.command is not None
    assert engine.state.command.options.context_length == 512
    assert engine.state.command.options.device == "cpu"


async def test_the_worker_gets_the_cache_that_was_planned(
    ctx: AppContext, owner: httpx.AsyncClient, engine: FakeEngine
) -> None:
    put_llama(ctx.settings.model_dir, "Packed", LLAMA_2_7B, GPTQ)
    plan = (await asked(owner, "models/card", name="Packed"))["plan"]
    await asked(owner, "models/load", name="Packed")
    await ctx.jobs.jobs()[-1].wait()
    assert engine.state.command is not None
    assert engine.state.command.cache_tokens == plan["cache_tokens"] > 4096


async def test_the_next_plan_counts_on_what_the_present_model_gives_back(
    ctx: AppContext, owner: httpx.AsyncClient, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_llama(ctx.settings.model_dir, "Packed", LLAMA_2_7B, GPTQ)
    plan = (await asked(owner, "models/card", name="Packed"))["plan"]
    await asked(owner, "models/load", name="Packed")
    await ctx.jobs.jobs()[-1].wait()
    endings: list[Ending] = []
    there = Machine((CARD,), 64 * 10**9, 40 * 10**9, 300 * 10**9)
    monkeypatch.setattr(type(engine), "pid", 7, raising=False)
    monkeypatch.setattr(
        planning, "this_machine", lambda folder, ending: endings.append(ending) or there
    )
    await asked(owner, "models/card", name="Packed")
    parts = {part["key"]: part["bytes"] for part in plan["devices"][0]["parts"]}
    assert endings[0] == Ending(7, {"cuda:0": parts["weights"] + parts["cache"]})


async def test_settings_are_kept_for_one_model_until_they_are_forgotten(
    ctx: AppContext, owner: httpx.AsyncClient
) -> None:
    for name in ("Tiny", "Other"):
        put_llama(ctx.settings.model_dir, name, TINY)
    await asked(owner, "models/settings/save", name="Tiny", options={"quantize": "8bit"})
    shown = await asked(owner, "models/card", name="Tiny")
    assert (shown["saved"], shown["options"]["quantize"]) == (True, "8bit")
    assert not (await asked(owner, "models/card", name="Other"))["saved"]
    await asked(owner, "models/settings/forget", name="Tiny")
    shown = await asked(owner, "models/card", name="Tiny")
    assert (shown["saved"], shown["options"]["quantize"]) == (False, "none")


async def test_settings_of_a_model_that_is_not_there_are_not_kept(
    ctx: AppContext, owner: httpx.AsyncClient
) -> None:
    for name in ("none", "../up"):
        body = json.dumps({"name": name, "options": {}})
        answer = await owner.post("/page/models/settings/save", content=body)
        assert answer.status_code == 400
    assert not ctx.settings.models_yaml.exists()


# -- LoRAs ------------------------------------------------------------------------------


async def test_loras_are_listed_applied_weighed_and_removed(
    ctx: AppContext, owner: httpx.AsyncClient, engine: FakeEngine
) -> None:
    put_lora(ctx.settings.lora_dir, "pirate")
    (listed,) = (await owner.get("/page/adapters")).json()["adapters"]
    assert (listed["rank"], listed["targets"]) == (8, ["q_proj", "v_proj"])
    assert listed["base"] == "someone/Tiny"
    await asked(owner, "adapters/apply", name="pirate")
    await asked(owner, "adapters/weights", weights={"pirate": -0.5})
    assert [(a.info.name, a.weight) for a in engine.state.adapters] == [("pirate", -0.5)]
    await asked(owner, "adapters/remove", name="pirate")
    assert engine.state.adapters == ()


async def test_what_is_wrong_with_a_lora_is_a_sentence(
    ctx: AppContext, owner: httpx.AsyncClient, engine: FakeEngine
) -> None:
    put_lora(ctx.settings.lora_dir, "pirate")
    (put_lora(ctx.settings.lora_dir, "broken") / "adapter_model.safetensors").write_bytes(b"{")
    listed = {a["name"]: a for a in (await owner.get("/page/adapters")).json()["adapters"]}
    assert "damaged" in listed["broken"]["problem"]
    engine.adapter_error = AdapterError("It does not fit.", "Use another.")
    for path, body in (
        ("apply", {"name": "pirate"}),
        ("apply", {"name": "../secret"}),
        ("weights", {"weights": {"pirate": 1}}),
        ("weights", {"weights": {"pirate": 1e9}}),
    ):
        answer = await owner.post(f"/page/adapters/{path}", content=json.dumps(body))
        assert (path, answer.status_code, bool(answer.json()["remedy"])) == (path, 400, True)
