"""Extensions, as the page lists, changes and keeps them, and what they add to it."""

from __future__ import annotations

import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from modules.access import Access
from modules.context import AppContext
from modules.engine.fake import FakeEngine
from modules.extensions.manager import ExtensionInfo
from modules.host import host_of
from modules.settings import Settings, read_launch
from server import build_context
from tests.chats import asked
from tests.ui.test_routes import TOKEN, client

pytestmark = pytest.mark.anyio

PARIS = "The capital of France is Paris."
LOUD = '''
    """Says it louder."""
    params = {"display_name": "Louder", "mark": "!", "times": 1, "rate": 0.5, "on": False}
    params["made"] = object()

    def output_modifier(string):
        return string.upper() + params["mark"] * params["times"]
'''

Launch = Callable[..., AppContext]
Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, source: str) -> None:
        folder = tmp_path / "extensions" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "script.py").write_text(textwrap.dedent(source), "utf-8")

    return write


@pytest.fixture
async def launch(settings: Settings, engine: FakeEngine, tmp_path: Path) -> AsyncIterator[Launch]:
    """A Lantern as flags and its settings.yaml make it."""
    made: list[AppContext] = []

    def launch(*flags: str, yaml_text: str = "", access: Access | None = None) -> AppContext:
        file = tmp_path / "settings.yaml"
        if yaml_text or not file.exists():
            file.write_text(yaml_text)
        folders = ("model_dir", "lora_dir", "prompt_dir", "user_data_dir")
        told = [f"--{name.replace('_', '-')}={getattr(settings, name)}" for name in folders]
        told += [f"--extension-dir={tmp_path / 'extensions'}", f"--settings={file}"]
        launched, origins = read_launch([*told, "--no-starter", *flags])
        access = access or Access()
        made.append(build_context(launched, engine, access, host_of(launched, access, origins)))
        return made[-1]

    yield launch
    for ctx in made:
        await ctx.chats.close()
        for store in ctx.chats._stores.both:
            store.close()


async def listed(owner: httpx.AsyncClient, name: str = "loud") -> dict[str, Any]:
    found = (await owner.get("/page/extensions")).json()["extensions"]
    return next(one for one in found if one["name"] == name)


def info(ctx: AppContext, name: str) -> ExtensionInfo:
    return next(one for one in ctx.extensions.infos() if one.name == name)


# -- the list ---------------------------------------------------------------------------


async def test_the_list_has_all_in_the_folder_in_their_order(launch: Launch, write: Write) -> None:
    write("loud", LOUD)
    write("able", '"""Does nothing."""\n')
    write("wrong", "def setup(:\n")
    async with client(launch("--extensions", "loud"), "owner") as owner:
        found = (await owner.get("/page/extensions")).json()["extensions"]
    assert [(one["name"], one["state"]) for one in found] == [
        ("loud", "on"), ("able", "off"), ("wrong", "off"),
    ]  # fmt: skip
    assert (found[0]["title"], found[0]["about"]) == ("Louder", "Says it louder.")
    assert found[0]["hooks"] == ["output_modifier"]
    assert "line 1" in found[2]["error"] and found[2]["remedy"]


async def test_a_plain_param_is_a_switch_a_number_or_a_text(launch: Launch, write: Write) -> None:
    write("loud", LOUD)
    async with client(launch("--extensions", "loud"), "owner") as owner:
        params = (await listed(owner))["params"]
    assert {one["key"]: (one["kind"], one["whole"]) for one in params} == {
        "mark": ("text", False), "times": ("number", True), "rate": ("number", False),
        "on": ("switch", False),
    }  # fmt: skip


async def test_a_switch_works_at_once(launch: Launch, write: Write) -> None:
    write("loud", LOUD)
    ctx = launch()
    async with client(ctx, "owner") as owner:
        for on, shown in ((True, PARIS.upper() + "!"), (False, PARIS)):
            await owner.post("/page/extensions/loud/switch", json={"on": on})
            assert (await listed(owner))["state"] == ("on" if on else "off")
            chat = await asked(ctx.chats, "Hi")
            assert (await ctx.chats.branch(chat, "owner"))[-1].shown == shown


async def test_what_cannot_be_switched_on_is_listed_with_the_reason(
    launch: Launch, write: Write
) -> None:
    write("wrong", "import no_such_package\n")
    async with client(launch(), "owner") as owner:
        answer = await owner.post("/page/extensions/wrong/switch", json={"on": True})
        assert answer.status_code == 200
        one = await listed(owner, "wrong")
        assert (one["state"], "no_such_package" in one["error"]) == ("failed", True)
        assert "pip install no_such_package" in one["remedy"]
        missing = await owner.post("/page/extensions/nothing/switch", json={"on": True})
        assert missing.status_code == 404


async def test_a_param_works_at_once_and_keeps_its_kind(launch: Launch, write: Write) -> None:
    write("loud", LOUD)
    ctx = launch("--extensions", "loud")
    async with client(ctx, "owner") as owner:
        await owner.post("/page/extensions/loud/param", json={"key": "times", "value": 3})
        chat = await asked(ctx.chats, "Hi")
        assert (await ctx.chats.branch(chat, "owner"))[-1].shown == PARIS.upper() + "!!!"
        for key, value in (("times", "many"), ("on", 1), ("mark", True), ("display_name", "x")):
            body = {"key": key, "value": value}
            answer = await owner.post("/page/extensions/loud/param", json=body)
            assert (key, answer.status_code in (400, 404)) == (key, True)


# -- kept -------------------------------------------------------------------------------


async def test_what_is_kept_is_what_the_next_launch_has(launch: Launch, write: Write) -> None:
    write("loud", LOUD)
    write("able", "params = {}\n")
    ctx = launch(yaml_text="# mine\nextensions: [able]\nctx_size: 1024\n")
    async with client(ctx, "owner") as owner:
        await owner.post("/page/extensions/loud/switch", json={"on": True})
        await owner.post("/page/extensions/loud/param", json={"key": "mark", "value": "?"})
        one = await listed(owner)
        assert one["next"] == "off" and [p["key"] for p in one["params"] if p["changed"]] == [
            "mark"
        ]
        await owner.post("/page/extensions/loud/keep")
        one = await listed(owner)
        assert one["next"] == "on" and not any(p["changed"] for p in one["params"])
    file = ctx.host.origins.file
    assert file.read_text().startswith("# mine\n")
    assert yaml.safe_load(file.read_text()) == {
        "extensions": ["able", "loud"], "ctx_size": 1024, "loud-mark": "?",
    }  # fmt: skip
    again = launch()
    assert again.extensions.names_on() == ["able", "loud"]
    assert info(again, "loud").params["mark"] == "?"


async def test_what_is_off_is_kept_off_and_a_default_is_not_written(
    launch: Launch, write: Write
) -> None:
    write("loud", LOUD)
    ctx = launch(yaml_text='extensions: [loud]\nloud-mark: "?"\n')
    async with client(ctx, "owner") as owner:
        await owner.post("/page/extensions/loud/param", json={"key": "mark", "value": "!"})
        await owner.post("/page/extensions/loud/switch", json={"on": False})
        assert (await listed(owner))["next"] == "on"
        await owner.post("/page/extensions/loud/keep")
        assert (await listed(owner))["next"] == "off"
    assert yaml.safe_load(ctx.host.origins.file.read_text()) is None


async def test_what_settings_yaml_alone_names_is_withheld_where_others_reach_the_page(
    launch: Launch, write: Write
) -> None:
    write("loud", LOUD)
    ctx = launch("--listen", yaml_text="extensions: [loud]\n", access=Access(TOKEN))
    async with client(ctx, "owner") as owner:
        one = await listed(owner)
    assert (one["state"], one["next"]) == ("withheld", "withheld")
    assert "--extensions loud" in one["remedy"]


async def test_a_damaged_file_is_told_and_not_written(launch: Launch, write: Write) -> None:
    write("loud", LOUD)
    ctx = launch("--extensions", "loud")
    ctx.host.origins.file.write_text("extensions: [")
    async with client(ctx, "owner") as owner:
        found = (await owner.get("/page/extensions")).json()
        assert found["fault"] and found["extensions"][0]["next"] is None
        answer = await owner.post("/page/extensions/loud/keep")
        assert answer.status_code == 400
    assert ctx.host.origins.file.read_text() == "extensions: ["


# -- styles, scripts, calls -------------------------------------------------------------

LOOKS = """
    params = {"color": "red"}
    def custom_css(): return f"p {{ color: {params['color']} }}"
    def custom_js(): return "lantern.say('hi')"
    def page_call(action, body, message):
        if action == "break":
            raise ValueError("no")
        return {"action": action, "body": body, "message": message}
"""


async def test_styles_and_scripts_come_in_order_without_those_that_fail(
    launch: Launch, write: Write
) -> None:
    write("second", LOOKS)
    write("first", "def custom_css(): return 'a {}'\n")
    write("bad", "def custom_js(): return 1\n")
    ctx = launch("--extensions", "first", "bad", "second", access=Access(TOKEN))
    async with client(ctx, "guest") as guest:
        found = (await guest.get("/page/extensions/looks")).json()
        assert [(one["name"], one["css"], one["js"]) for one in found] == [
            ("first", "a {}", ""), ("bad", "", ""),
            ("second", "p { color: red }", "lantern.say('hi')"),
        ]  # fmt: skip
        assert info(ctx, "bad").state == "failed"
        code = await guest.get("/page/extensions/second/script.js")
        assert code.headers["content-type"].startswith("text/javascript")
        assert "run(\"second\", async (lantern) => { lantern.say('hi')\n});" in code.text
        assert (await guest.get("/page/extensions/first/script.js")).status_code == 404


async def test_a_script_in_the_page_asks_its_extension(launch: Launch, write: Write) -> None:
    write("looks", LOOKS)
    ctx = launch("--extensions", "looks")
    chat = await asked(ctx.chats, "Hi", "And now?")
    reply = (await ctx.chats.branch(chat, "owner"))[-1]
    async with client(ctx, "owner") as owner:
        body = {"action": "see", "body": {"a": 1}, "chat": chat, "message": reply.id}
        found = (await owner.post("/page/extensions/looks/call", json=body)).json()
        assert (found["action"], found["body"]) == ("see", {"a": 1})
        assert [one["content"] for one in found["message"]["history"]] == ["Hi", PARIS, "And now?"]
        assert (found["message"]["text"], found["message"]["role"]) == (PARIS, "assistant")
        assert found["message"]["versions"] == [{"id": reply.id, "text": PARIS}]
        broken = await owner.post("/page/extensions/looks/call", json={"action": "break"})
        assert "The extension looks failed: page_call raised ValueError" in broken.json()["message"]
        assert info(ctx, "looks").state == "failed"
        again = await owner.post("/page/extensions/looks/call", json={"action": "see"})
        assert again.status_code == 404


async def test_a_guest_is_refused_everything_but_looks(launch: Launch, write: Write) -> None:
    write("looks", LOOKS)
    ctx = launch("--extensions", "looks", access=Access(TOKEN))
    async with client(ctx, "guest") as guest:
        assert (await guest.get("/page/extensions")).status_code == 403
        for what in ("switch", "param", "keep", "call"):
            body = {"on": False, "key": "color", "value": "blue", "action": "see"}
            answer = await guest.post(f"/page/extensions/looks/{what}", json=body)
            assert (what, answer.status_code) == (what, 403)
    assert info(ctx, "looks").state == "on"


# -- colours ----------------------------------------------------------------------------

COLORS = """
    params = {"colors": ["red"], "given": []}
    def token_colors(tokens):
        params["given"] = tokens
        return {"colors": [*params["colors"], *[""] * (len(tokens) - 1)], "legend": [("red", "x")]}
"""


async def test_tokens_are_asked_for_while_a_hook_colours_them(
    launch: Launch, write: Write, engine: FakeEngine
) -> None:
    write("colors", COLORS)
    ctx = launch("--extensions", "colors")
    chat = await asked(ctx.chats, "Hi")
    reply = (await ctx.chats.branch(chat, "owner"))[-1]
    address = f"/page/chats/{chat}/messages/{reply.id}/tokens"
    async with client(ctx, "owner") as owner:
        found = (await owner.get(address)).json()
        assert "".join(part[0] for part in found["parts"]) == PARIS
        assert found["parts"][0][:2] == ["The", "red"]
        assert found["parts"][0][2] == pytest.approx(0.9, abs=0.01)
        assert found["legend"] == [["red", "x"]]
        (script,) = ctx.extensions.plugins()
        assert script.params["given"][0].keys() == {"text", "probability", "alternatives"}
        assert engine.requests[-1].logprobs == 5
        await ctx.extensions.disable("colors")
        assert (await owner.get(address)).json() == {"parts": []}
        await asked(ctx.chats, "Hi")
        assert engine.requests[-1].logprobs is None


async def test_too_few_colours_are_a_fault_of_the_hook(launch: Launch, write: Write) -> None:
    write("colors", COLORS)
    ctx = launch("--extensions", "colors", yaml_text="colors-colors: []\n")
    chat = await asked(ctx.chats, "Hi")
    reply = (await ctx.chats.branch(chat, "owner"))[-1]
    async with client(ctx, "owner") as owner:
        answer = await owner.get(f"/page/chats/{chat}/messages/{reply.id}/tokens")
        assert answer.json() == {"parts": []}
    assert "token_colors returned what does not fit" in info(ctx, "colors").error


async def test_nobody_sees_the_tokens_of_anothers_reply(launch: Launch, write: Write) -> None:
    write("colors", COLORS)
    ctx = launch("--extensions", "colors", access=Access(TOKEN))
    chat = await asked(ctx.chats, "Hi")
    reply = (await ctx.chats.branch(chat, "owner"))[-1]
    async with client(ctx, "guest") as guest:
        answer = await guest.get(f"/page/chats/{chat}/messages/{reply.id}/tokens")
        assert answer.status_code == 404
