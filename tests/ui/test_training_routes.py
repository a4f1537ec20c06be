"""The routes of the Training tab: sets, settings, preview, plan, runs, chats."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from modules.access import AccessMiddleware
from modules.context import AppContext
from modules.engine.fake import FakeEngine
from modules.engine.protocol import LoadModel
from modules.loader.machine import Machine
from modules.training import preview
from modules.training.config import training_knobs
from modules.training.launch import start
from modules.training.tokenizer import FileTokenizer
from modules.ui import planning, training_preview, training_sets
from modules.ui.routes import add_routes
from modules.ui.training import brief_json
from tests.folders import TINY, put_llama, put_lora
from tests.training.bases import byte_level_base

pytestmark = pytest.mark.anyio

STAGED = Path(__file__).with_name("staged_run.py")
ALPACA = [{"instruction": f"Question {i}?", "output": f"Answer {i}."} for i in range(6)]


@pytest.fixture(autouse=True)
def a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    there = Machine((), ram_total=64 * 10**9, ram_free=40 * 10**9, disk_free=300 * 10**9)
    monkeypatch.setattr(planning, "this_machine", lambda *_, **__: there)


@pytest.fixture
def base(ctx: AppContext) -> str:
    """A model that can be planned for, with a tokenizer that can be looked through."""
    folder = put_llama(ctx.settings.model_dir, "Tiny", TINY)
    byte_level_base(folder)
    return "Tiny"


@pytest.fixture
async def owner(ctx: AppContext) -> AsyncIterator[httpx.AsyncClient]:
    def launch(folder: Path, resume: bool) -> subprocess.Popen[bytes]:
        return start(folder, [sys.executable, str(STAGED), str(folder), "0.005"])

    ctx.training._launch = launch
    ctx.training.start()
    app = FastAPI()
    add_routes(app, ctx)
    app.add_middleware(AccessMiddleware, access=ctx.access)
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 5000))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as opened:
        opened.headers["content-type"] = "application/json"
        yield opened
    for run in ctx.training.store.running():
        await stopped(ctx, run)
    await ctx.training.close()
    await ctx.jobs.close()


async def stopped(ctx: AppContext, run: str) -> None:
    await ctx.training.cancel(run)
    await until(lambda: not ctx.training.store.running())


async def asked(owner: httpx.AsyncClient, path: str, /, **body: Any) -> Any:
    answer = await owner.post(f"/page/training/{path}", content=json.dumps(body))
    assert (answer.status_code, answer.text) == (200, answer.text)
    return answer.json()


async def refused(owner: httpx.AsyncClient, path: str, /, **body: Any) -> str:
    answer = await owner.post(f"/page/training/{path}", content=json.dumps(body))
    assert answer.status_code in (400, 404)
    return f"{answer.json()['message']} {answer.json()['remedy']}"


async def got(owner: httpx.AsyncClient, path: str) -> Any:
    answer = await owner.get(f"/page/training/{path}")
    assert (answer.status_code, answer.text) == (200, answer.text)
    return answer.json()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.02)


def put_set(ctx: AppContext, name: str, content: str | list[dict[str, Any]]) -> str:
    folder = ctx.settings.paths.datasets
    folder.mkdir(exist_ok=True)
    text = content if isinstance(content, str) else "\n".join(map(json.dumps, content))
    (folder / name).write_text(text)
    return name


def draft(name: str, /, **settings: Any) -> dict[str, Any]:
    return {"base": "Tiny", "datasets": [{"path": name}], "cutoff_len": 256, **settings}


async def ran(ctx: AppContext, owner: httpx.AsyncClient, **settings: Any) -> str:
    """A run that has come to its end."""
    name = put_set(ctx, "rows.jsonl", ALPACA)
    config = {"name": "little", "max_steps": 10} | settings
    (run,) = (await asked(owner, "start", config=draft(name, **config)))["runs"]
    await until(lambda: ctx.training.store.get(run).ended and not ctx.training.current)
    return run


# -- sets -------------------------------------------------------------------------------


async def upload(owner: httpx.AsyncClient, name: str, content: bytes) -> httpx.Response:
    return await owner.post(
        "/page/training/datasets/upload", params={"name": name}, content=content
    )


async def test_an_uploaded_set_is_listed_and_another_of_its_name_is_kept_beside_it(
    ctx: AppContext, owner: httpx.AsyncClient
) -> None:
    for content in (b'{"text": "one"}', b'{"text": "two"}'):
        assert (await upload(owner, r"C:\mine\rows.jsonl", content)).status_code == 200
    listed = [one for one in (await got(owner, "datasets"))["datasets"] if one["yours"]]
    assert [one["path"] for one in listed] == ["rows-2.jsonl", "rows.jsonl"]
    assert (ctx.settings.paths.datasets / "rows.jsonl").read_bytes() == b'{"text": "one"}'


@pytest.mark.parametrize("name", ["../../x.jsonl", "/etc/x.jsonl", ".x.jsonl", "a\0b.jsonl"])
async def test_an_upload_lands_in_its_folder_whatever_it_is_called(
    name: str, ctx: AppContext, owner: httpx.AsyncClient
) -> None:
    found = (await upload(owner, name, b"{}")).json()
    (there,) = ctx.settings.paths.datasets.iterdir()
    assert there.name == found["path"]


@pytest.mark.parametrize("name", ["rows.exe", "", ".jsonl", "rows"])
async def test_what_is_no_dataset_is_not_uploaded(
    name: str, ctx: AppContext, owner: httpx.AsyncClient
) -> None:
    answer = await upload(owner, name, b"x")
    assert (answer.status_code, "is no dataset" in answer.json()["message"]) == (400, True)


async def test_of_an_upload_that_is_too_large_nothing_stays(
    ctx: AppContext, owner: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_sets, "MAX_UPLOAD_BYTES", 1000)

    async def chunks() -> AsyncIterator[bytes]:  # whose length nobody announces
        for _ in range(20):
            yield b"x" * 100

    answer = await owner.post("/page/training/datasets/upload?name=a.txt", content=chunks())
    assert (answer.status_code, "can be uploaded" in answer.json()["message"]) == (400, True)
    assert list(ctx.settings.paths.datasets.iterdir()) == []


async def test_a_set_is_deleted_and_one_that_is_not_there_is_said_so(
    ctx: AppContext, owner: httpx.AsyncClient
) -> None:
    name = put_set(ctx, "rows.jsonl", ALPACA)
    await asked(owner, "datasets/delete", name=name)
    assert not (ctx.settings.paths.datasets / name).exists()
    assert "There is no set" in await refused(owner, "datasets/delete", name=name)
    assert "cannot be used" in await refused(owner, "datasets/delete", name="../lantern.sqlite3")


async def test_the_form_of_a_set_is_recognised_or_its_columns_are_asked_for(
    ctx: AppContext, owner: httpx.AsyncClient
) -> None:
    put_set(ctx, "alpaca.jsonl", ALPACA)
    put_set(ctx, "odd.csv", "frage,antwort\nWas?,Das.\n")
    known = await asked(owner, "datasets/look", path="alpaca.jsonl")
    assert (known["form"], known["problem"]) == ("Alpaca", "")
    odd = await asked(owner, "datasets/look", path="odd.csv")
    assert odd["keys"] == ["frage", "antwort"] and "tell nothing" in odd["problem"]
    columns = {"prompt": "frage", "response": "antwort"}
    named = await asked(owner, "datasets/look", path="odd.csv", columns=columns)
    assert named["problem"] == ""


async def test_a_set_that_is_empty_or_gone_says_so(
    ctx: AppContext, owner: httpx.AsyncClient
) -> None:
    put_set(ctx, "empty.jsonl", "")
    assert "is empty" in await refused(owner, "datasets/look", path="empty.jsonl")
    assert "no dataset" in await refused(owner, "datasets/look", path="gone.jsonl")


# -- what a row looks like ----------------------------------------------------------------


async def test_a_row_is_shown_with_what_of_it_is_learnt(
    ctx: AppContext, owner: httpx.AsyncClient, base: str
) -> None:
    name = put_set(ctx, "rows.jsonl", ALPACA)
    row = await asked(owner, "preview", config=draft(name), index=2)
    assert (row["total"], row["place"]) == (6, "rows.jsonl, row 3")
    learnt = "".join(piece for piece, is_learnt in row["tokens"] if is_learnt)
    assert learnt == "Answer 2.<|im_end|>"
    everything = await asked(owner, "preview", config=draft(name, learn="everything"), index=2)
    assert "Question 2?" in "".join(p for p, is_learnt in everything["tokens"] if is_learnt)


async def test_the_lint_names_rows_and_the_shares_of_real_tokens(
    ctx: AppContext, owner: httpx.AsyncClient, base: str
) -> None:
    rows = [*ALPACA, ALPACA[0], {"instruction": "Why?", "output": " "}]
    found = await asked(owner, "lint", config=draft(put_set(ctx, "rows.jsonl", rows)))
    assert found["examples"] == 7
    told = {one["kind"]: one["rows"] for one in found["findings"]}
    assert told["duplicate"] == ["rows.jsonl, row 7 is the same as rows.jsonl, row 1."]
    assert told["empty reply"] == ["rows.jsonl, row 8: The reply is empty."]
    assert found["shares"]["packed"] == 1.0 >= found["shares"]["sorted"] > 0


async def test_a_large_set_says_how_many_rows_were_looked_at(
    ctx: AppContext, owner: httpx.AsyncClient, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview, "SAMPLE", 4)
    found = await asked(owner, "lint", config=draft(put_set(ctx, "rows.jsonl", ALPACA)))
    assert found["sampled"] == "Looked at the first 4 rows, which are not all."


async def test_the_tokenizer_is_kept_until_its_folder_changes(
    ctx: AppContext, owner: httpx.AsyncClient, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def counted(folder: Path) -> FileTokenizer:
        read.append(folder)
        return FileTokenizer(folder)

    monkeypatch.setattr(training_preview, "FileTokenizer", counted)
    name = put_set(ctx, "rows.jsonl", ALPACA)
    for index in (0, 1):
        await asked(owner, "preview", config=draft(name), index=index)
    assert len(read) == 1
    (read[0] / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    row = await asked(owner, "preview", config=draft(name), index=1)
    assert len(read) == 2
    assert "".join(piece for piece, _ in row["tokens"]).startswith("Question 1?")


async def test_without_a_base_or_with_one_that_is_gone_the_preview_says_why(
    ctx: AppContext, owner: httpx.AsyncClient
) -> None:
    name = put_set(ctx, "rows.jsonl", ALPACA)
    config = draft(name, base="")
    assert "No base model is chosen" in await refused(owner, "preview", config=config)
    config = draft(name, base="Gone")
    assert "Gone" in await refused(owner, "lint", config=config)


# -- settings -----------------------------------------------------------------------------


async def test_the_form_has_every_setting_with_its_default(
    ctx: AppContext, owner: httpx.AsyncClient, base: str
) -> None:
    put_lora(ctx.settings.lora_dir, "earlier")
    setup = await got(owner, "setup")
    assert [field["name"] for field in setup["fields"]] == list(training_knobs())
    assert {field["group"] for field in setup["fields"]} <= set(setup["groups"])
    assert [model["name"] for model in setup["models"]] == ["Tiny"]
    assert setup["adapters"] == ["earlier"]


async def test_a_draft_is_checked_and_shown_as_the_file_that_it_is(
    owner: httpx.AsyncClient,
) -> None:
    found = await asked(owner, "check", config={"name": "mine", "lora_r": 8})
    assert (found["yaml"], found["runs"], found["problem"]) == ("name: mine\nlora_r: 8\n", 1, None)
    sweep = await asked(owner, "check", config={"lora_r": [4, 8], "epochs": [1, 2]})
    assert sweep["runs"] == 4 and "- 8" in sweep["yaml"]
    wrong = (await asked(owner, "check", config={"lora_r": 0}))["problem"]
    assert (wrong["field"], "Use 1 to 1024." in wrong["remedy"]) == ("lora_r", True)


async def test_a_file_is_taken_or_refused_with_the_reason(owner: httpx.AsyncClient) -> None:
    found = await asked(owner, "read", yaml="name: mine\nlora_r: [8, 16]\n")
    assert found == {"config": {"name": "mine", "lora_r": [8, 16]}}
    assert "no setting 'lora_rank'" in await refused(owner, "read", yaml="lora_rank: 8")
    assert "not valid YAML" in await refused(owner, "read", yaml="a: [")


async def test_the_plan_has_the_parts_of_the_memory_and_the_micro_batch(
    owner: httpx.AsyncClient, base: str
) -> None:
    plan = await asked(owner, "plan", config={"base": base}, tokens=1024, units=40)
    (device,) = plan["devices"]
    assert sum(part["bytes"] for part in device["parts"]) == device["used"] > 0
    assert f"Micro batch: {plan['micro_batch_size']} " in plan["notes"][0]
    assert "There is no model" in await refused(owner, "plan", config={"base": "Gone"})


# -- runs ---------------------------------------------------------------------------------


async def test_the_plan_of_a_sweep_is_that_of_its_largest_run(
    ctx: AppContext, owner: httpx.AsyncClient, base: str
) -> None:
    name = put_set(ctx, "rows.jsonl", ALPACA)
    large = await asked(owner, "plan", config=draft(name, lora_r=64))
    swept = await asked(owner, "plan", config=draft(name, lora_r=[8, 64, 16]))
    assert swept["devices"][0]["parts"] == large["devices"][0]["parts"]
    assert swept["notes"][0].startswith("Of the 3 runs")


async def test_a_run_is_started_followed_and_kept(
    ctx: AppContext, owner: httpx.AsyncClient, base: str
) -> None:
    run = await ran(ctx, owner)
    (listed,) = (await got(owner, "runs"))["runs"]
    assert (listed["id"], listed["state"], listed["step"]) == (run, "done", 10)
    assert len(listed["spark"]) == 10
    about = await got(owner, f"runs/{run}")
    assert about["curves"]["steps"] == [*range(1, 11)]
    assert [point["step"] for point in about["checkpoints"]] == [10]
    assert {sample["step"] for sample in about["samples"]} == {0, 10}
    assert "max_steps: 10" in (await got(owner, f"runs/{run}/files/config"))["text"]
    assert (await got(owner, f"runs/{run}/files/manifest"))["text"] == ""


async def test_a_run_without_data_is_not_begun(owner: httpx.AsyncClient, base: str) -> None:
    assert "needs a base model and data" in await refused(owner, "start", config={"base": base})
    assert (await got(owner, "runs"))["runs"] == []


async def test_a_running_one_is_told_to_stop_and_the_strip_tells_of_it(
    ctx: AppContext, owner: httpx.AsyncClient, base: str
) -> None:
    name = put_set(ctx, "rows.jsonl", ALPACA)
    config = draft(name, name="long", max_steps=5000)
    (run,) = (await asked(owner, "start", config=config))["runs"]
    await until(lambda: ctx.training.store.get(run).progress.step > 2)
    strip = brief_json(ctx, admin=True)["running"]
    assert (strip["id"], strip["name"], 0 < strip["fraction"] < 1) == (run, "long", True)
    assert brief_json(ctx, admin=False)["running"]["name"] == ""
    await asked(owner, f"runs/{run}/save")
    await asked(owner, f"runs/{run}/stop-loss", loss=0.1)
    await asked(owner, f"runs/{run}/stop")
    await until(lambda: ctx.training.store.get(run).state == "stopped")
    assert "nobody listens" in await refused(owner, f"runs/{run}/stop")


async def test_waiting_runs_change_places_and_are_cancelled(
    ctx: AppContext, owner: httpx.AsyncClient, base: str
) -> None:
    await ctx.training.close()  # so that all of them wait
    name = put_set(ctx, "rows.jsonl", ALPACA)
    config = draft(name, name="sweep", lora_r=[4, 8, 16])
    first, second, third = (await asked(owner, "start", config=config))["runs"]
    await asked(owner, "queue", runs=[third, first])
    assert ctx.training.store.queued() == [third, first, second]
    await asked(owner, f"runs/{first}/cancel")
    assert ctx.training.store.queued() == [third, second]


async def test_an_ended_run_is_repeated_and_deleted(
    ctx: AppContext, owner: httpx.AsyncClient, base: str
) -> None:
    run = await ran(ctx, owner)
    again = (await asked(owner, f"runs/{run}/repeat"))["run"]
    await until(lambda: ctx.training.store.get(again).ended and not ctx.training.current)
    await asked(owner, f"runs/{run}/delete")
    assert [one["id"] for one in (await got(owner, "runs"))["runs"]] == [again]
    assert "There is no run" in await refused(owner, f"runs/{run}/delete")


async def test_a_run_whose_base_is_gone_says_why_it_cannot_go_on(
    ctx: AppContext, owner: httpx.AsyncClient, base: str
) -> None:
    config = draft(put_set(ctx, "rows.jsonl", ALPACA), name="long", max_steps=5000)
    (run,) = (await asked(owner, "start", config=config))["runs"]
    await until(lambda: ctx.training.store.get(run).progress.step > 0)
    await stopped(ctx, run)
    assert (await got(owner, "runs"))["runs"][0]["blocked"] == ""
    shutil.rmtree(ctx.settings.model_dir / base)
    (listed,) = (await got(owner, "runs"))["runs"]
    assert (listed["id"], listed["state"]) == (run, "stopped")
    assert "its base Tiny is no longer in models/" in listed["blocked"]


# -- chatting with it ---------------------------------------------------------------------


async def use_base(ctx: AppContext, engine: FakeEngine) -> None:
    await engine.load(LoadModel(str(ctx.settings.model_dir / "Tiny")))


async def test_a_checkpoint_is_chatted_with_in_a_chat_of_its_own(
    ctx: AppContext, owner: httpx.AsyncClient, engine: FakeEngine, base: str
) -> None:
    run = await ran(ctx, owner)
    await use_base(ctx, engine)
    found = await asked(owner, "chat", run=run, step=10)
    chat = await ctx.chats.chat(found["chat"], "owner")
    assert chat.adapters == (("little@10", 1.0),)
    (applied,) = engine.state.adapters
    assert (applied.info.name, applied.weight) == ("little@10", 0.0)  # off in all other chats
    assert applied.info.path.endswith("checkpoints/step-000010")


async def test_where_another_model_is_loaded_the_base_is_offered_and_loaded(
    ctx: AppContext, owner: httpx.AsyncClient, engine: FakeEngine, base: str
) -> None:
    run = await ran(ctx, owner)
    offered = await asked(owner, "chat", run=run, step=10)
    assert offered == {"base": "Tiny", "loaded": "fake-model"}
    found = await asked(owner, "chat", run=run, step=10, load=True)
    assert found["name"] == "little@10"
    assert Path(engine.state.path).name == "Tiny"


async def test_a_finished_lora_is_chatted_with_over_the_base_of_its_run(
    ctx: AppContext, owner: httpx.AsyncClient, engine: FakeEngine, base: str
) -> None:
    run = await ran(ctx, owner)
    put_lora(ctx.settings.lora_dir, "little")
    assert (await asked(owner, "chat", run=run, lora="little"))["base"] == "Tiny"
    await use_base(ctx, engine)
    assert (await asked(owner, "chat", run=run, lora="little"))["name"] == "little"


async def test_the_model_card_of_a_run_is_that_of_its_lora(
    ctx: AppContext, owner: httpx.AsyncClient, base: str
) -> None:
    run = await ran(ctx, owner)
    (put_lora(ctx.settings.lora_dir, "little") / "README.md").write_text("# little")
    assert (await got(owner, f"runs/{run}/files/card"))["text"] == "# little"


async def test_a_checkpoint_that_is_gone_says_so(
    ctx: AppContext, owner: httpx.AsyncClient, base: str
) -> None:
    run = await ran(ctx, owner)
    assert "no longer there" in await refused(owner, "chat", run=run, step=3)


async def compared(owner: httpx.AsyncClient, **body: Any) -> list[dict[str, Any]]:
    answer = await owner.post("/page/training/compare", content=json.dumps(body))
    assert answer.status_code == 200
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_base_and_two_loras_answer_one_prompt_side_by_side(
    ctx: AppContext, owner: httpx.AsyncClient, engine: FakeEngine, base: str
) -> None:
    run = await ran(ctx, owner)
    put_lora(ctx.settings.lora_dir, "finished")
    await use_base(ctx, engine)
    engine.reply = lambda request: " + ".join(name for name, _ in request.adapters or ()) or "base"
    sides = [{"run": run, "step": 10}, {"lora": "finished"}]
    lines = await compared(owner, prompt="Who are you?", sides=sides)
    said = ["".join(one.get("text", "") for one in lines if one["column"] == i) for i in range(3)]
    assert said == ["base", "little@10", "finished"]
    assert {request.prompt for request in engine.requests} == {engine.requests[0].prompt}


async def test_a_checkpoint_of_another_base_is_not_compared(
    ctx: AppContext, owner: httpx.AsyncClient, base: str
) -> None:
    run = await ran(ctx, owner)
    (line,) = await compared(owner, prompt="Who?", sides=[{"run": run, "step": 10}])
    assert line["fault"].startswith("little@10 is a LoRA for Tiny, and fake-model is loaded.")
