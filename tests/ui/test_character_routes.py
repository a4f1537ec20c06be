"""The routes of characters and profiles, and chats with a character."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from modules.access import OWNER, Access
from modules.chat.store import StoredMessage
from modules.context import AppContext
from modules.engine.fake import FakeEngine
from modules.engine.params import SamplingParams
from modules.errors import NotFoundError
from modules.settings import Settings
from modules.ui.feed import ChatFeed
from server import build_context
from tests.chat.cards import V1, card, picture

pytestmark = pytest.mark.anyio

MIRA = {"name": "Mira", "context": "Maps.", "greeting": "Hello, {{user}}.",
        "alternate_greetings": ["Oh, {{user}}."]}  # fmt: skip
IMAGE = base64.b64encode(picture()).decode()


def become_guest(client: httpx.AsyncClient) -> None:
    client.headers["x-forwarded-for"] = "203.0.113.9"
    client.cookies.set("lantern_token", "sekrit-token")
    client.cookies.set("lantern_guest", "a-guest-of-twenty-letters")


async def post(client: httpx.AsyncClient, path: str, **body: Any) -> Any:
    answer = await client.post(f"/{path}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def listed(client: httpx.AsyncClient) -> dict[str, Any]:
    found = (await client.get("/characters")).json()["characters"]
    return {one["key"]: one for one in found}


async def upload(client: httpx.AsyncClient, data: bytes, **query: str) -> httpx.Response:
    return await client.post("/characters/import", params=query, content=data)


async def begun(ctx: AppContext, client: httpx.AsyncClient, **fresh: str) -> int:
    chat: int = (await post(client, "chats", **fresh))["id"]
    return chat


async def answered(ctx: AppContext, chat: int, text: str = "Hi") -> list[StoredMessage]:
    await ctx.chats.send(chat, "owner", text, SamplingParams())
    await ctx.chats.wait(chat)
    return await ctx.chats.branch(chat, "owner")


async def head(ctx: AppContext, chat: int) -> dict[str, Any]:
    update = await ChatFeed(ctx.chats, chat, OWNER).changes()
    assert update is not None
    return update


# -- the gallery ------------------------------------------------------------------------


async def test_the_gallery_tells_what_can_be_chosen(client: httpx.AsyncClient) -> None:
    tamsin = (await listed(client))["Tamsin"]
    assert (tamsin["own"], tamsin["shipped"], tamsin["problem"]) == (False, True, "")
    image = await client.get(tamsin["picture"].removeprefix("page"))
    assert image.headers["content-type"] == "image/webp" and image.content[8:12] == b"WEBP"
    assert image.headers["x-content-type-options"] == "nosniff"


async def test_one_is_made_edited_and_read_back(client: httpx.AsyncClient) -> None:
    key = (await post(client, "characters/save", **MIRA, picture=IMAGE))["name"]
    await post(client, "characters/save", key=key, name="Mira B.", context="Charts.")
    source = (await client.get("/characters/source", params={"name": key})).json()
    assert (key, source["name"], source["context"]) == ("Mira", "Mira B.", "Charts.")
    assert source["picture"] and "greeting" not in source
    await post(client, "characters/save", key=key, name="Mira", picture="")
    assert (await listed(client))["Mira"]["picture"] == ""


async def test_an_edit_of_a_shipped_one_keeps_its_picture(client: httpx.AsyncClient) -> None:
    await post(client, "characters/save", key="Tamsin", name="Tamsin")
    assert (await listed(client))["Tamsin"]["own"]
    assert (await listed(client))["Tamsin"]["picture"]


async def test_duplicate_delete_and_restore(client: httpx.AsyncClient) -> None:
    assert await post(client, "characters/duplicate", name="Tamsin") == {"name": "Tamsin 2"}
    await post(client, "characters/delete", name="Tamsin 2")
    assert "Tamsin 2" not in await listed(client)
    await post(client, "characters/restore", name="Tamsin 2")
    assert (await listed(client))["Tamsin 2"]["picture"]


async def test_an_import_asks_before_it_replaces(client: httpx.AsyncClient) -> None:
    first = await upload(client, card(V1 | {"tags": ["map"]}), name="m.png")
    assert first.json() == {"name": "Mira", "left_out": ["tags"]}
    again = await upload(client, b"name: Mira\ncontext: New.", name="m.yaml")
    assert again.json() == {"taken": "Mira"}
    await upload(client, b"name: Mira\ncontext: New.", name="m.yaml", conflict="both")
    await upload(client, b"name: Mira\ncontext: Newer.", name="m.yaml", conflict="replace")
    found = await listed(client)
    assert (found["Mira"]["line"], found["Mira 2"]["line"]) == ("Newer.", "New.")


async def test_a_hundred_megabytes_are_refused_unread(client: httpx.AsyncClient) -> None:
    sent = 0

    async def parts() -> AsyncGenerator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield b"x" * 1_000_000

    answer = await client.post("/characters/import?name=x.png", content=parts())
    assert (answer.status_code, answer.json()["message"]) == (400, "The file is larger than 16 MB.")
    assert sent < 20
    told = {"content-length": "100000000"}
    answer = await client.post("/characters/import?name=x.png", content=b"", headers=told)
    assert answer.json()["message"] == "The file is larger than 16 MB."


async def test_a_refused_import_keeps_nothing(ctx: AppContext, client: httpx.AsyncClient) -> None:
    answer = await upload(client, card(V1)[:-20], name="m.png")
    assert (answer.status_code, "damaged" in answer.json()["message"]) == (400, True)
    assert not ctx.settings.paths.own_characters.exists()


@pytest.mark.parametrize("form", ["yaml", "png"])
async def test_what_is_exported_comes_in_again(form: str, client: httpx.AsyncClient) -> None:
    query = {"name": "Tamsin", "form": form}
    answer = await client.get("/characters/export", params=query)
    assert answer.headers["content-disposition"] == f'attachment; filename="Tamsin.{form}"'
    assert (await upload(client, answer.content, name="x", conflict="both")).json() == {
        "name": "Tamsin 2", "left_out": [],
    }  # fmt: skip
    one, two = [
        (await client.get("/characters/source", params={"name": key})).json()["context"]
        for key in ("Tamsin", "Tamsin 2")
    ]
    assert one == two


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("save", MIRA | {"picture": "no base64!"}),
        ("save", MIRA | {"picture": "é"}),
        ("save", MIRA | {"picture": base64.b64encode(b"GIF89a").decode()}),
        ("save", MIRA | {"key": "../x"}),
        ("save", {"name": " "}),
        ("delete", {"name": "Tamsin"}),
        ("restore", {"name": "Tamsin"}),
        ("duplicate", {"name": "../../etc/passwd"}),
    ],
)
async def test_what_does_not_fit_is_a_sentence(
    path: str, body: dict[str, Any], client: httpx.AsyncClient
) -> None:
    answer = await client.post(f"/characters/{path}", json=body)
    assert answer.status_code in (400, 404)
    assert answer.json()["message"] and answer.json()["remedy"]


async def test_a_guest_sees_and_chooses_and_changes_nothing(
    ctx: AppContext, client: httpx.AsyncClient
) -> None:
    become_guest(client)
    answer = (await client.get("/characters")).json()
    assert (answer["may_save"], answer["characters"][0]["key"]) == (False, "Tamsin")
    for path in ("save", "duplicate", "delete", "restore", "import"):
        refused = await client.post(f"/characters/{path}", json=MIRA)
        assert (path, refused.status_code) == (path, 403)
    for path in ("source?name=Tamsin", "export?name=Tamsin&form=png"):
        assert (await client.get(f"/characters/{path}")).status_code == 403
    assert await begun(ctx, client, character="Tamsin")


def test_a_flag_that_names_no_character_is_told_at_the_start(
    settings: Settings, engine: FakeEngine
) -> None:
    with pytest.raises(NotFoundError, match="There is no character 'Nobody'"):
        build_context(dataclasses.replace(settings, character="Nobody"), engine, Access())


# -- profiles ---------------------------------------------------------------------------


async def test_everybody_has_a_profile_of_their_own(client: httpx.AsyncClient) -> None:
    await post(client, "profile/save", name="Ann", about="Sails.", picture=IMAGE)
    mine = (await client.get("/profile")).json()
    assert (mine["name"], mine["about"]) == ("Ann", "Sails.")
    assert (await client.get(mine["picture"].removeprefix("page"))).content[8:12] == b"WEBP"
    await post(client, "profile/save", name="Ann B.")
    assert (await client.get("/profile")).json()["picture"]
    become_guest(client)
    assert (await client.get("/profile")).json() == {"name": "You", "about": "", "picture": ""}
    assert (await client.get("/profile/picture")).status_code == 404


# -- chats ------------------------------------------------------------------------------


async def test_a_chat_begins_with_the_greetings_as_versions(
    ctx: AppContext, client: httpx.AsyncClient
) -> None:
    await post(client, "profile/save", name="Ann")
    await post(client, "characters/save", **MIRA)
    chat = await begun(ctx, client, character="Mira", mode="chat")
    (greeting,) = await ctx.chats.branch(chat, "owner")
    assert (greeting.content, len(greeting.versions)) == ("Hello, Ann.", 2)
    await ctx.chats.show_version(chat, "owner", greeting.versions[1])
    assert (await ctx.chats.branch(chat, "owner"))[0].content == "Oh, Ann."


async def test_no_chat_begins_with_a_character_that_is_not_there(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.post("/chats", json={"character": "Nobody"})
    assert (answer.status_code, answer.json()["message"]) == (
        404,
        "There is no character 'Nobody'.",
    )


async def test_a_reply_is_written_and_shown_as_the_character(
    ctx: AppContext, client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.reply = lambda request: "  Well met.\nYou: And I say"
    await post(client, "characters/save", **MIRA, picture=IMAGE)
    chat = await begun(ctx, client, character="Mira", mode="chat")
    reply = (await answered(ctx, chat))[-1]
    assert reply.content == "Well met."
    assert (reply.about["mode"], reply.about["character"], reply.about["name"]) == (
        "chat", "Mira", "Mira",
    )  # fmt: skip
    (request,) = engine.requests
    assert request.prompt == "Maps.\n\nMira: Hello, You.\nYou: Hi\nMira:"
    assert (request.special_tokens, request.stop) == (True, ("\nYou:", "\nMira:"))
    update = await head(ctx, chat)
    shown = update["messages"][-1]
    assert (shown["name"], "fake-model · " in shown["stats"]) == ("Mira", True)
    assert shown["picture"] == update["chat"]["character"]["picture"] != ""


async def test_an_edit_of_the_character_counts_from_the_next_reply(
    ctx: AppContext, client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await post(client, "characters/save", **MIRA)
    chat = await begun(ctx, client, character="Mira")
    await answered(ctx, chat)
    feed = ChatFeed(ctx.chats, chat, OWNER)
    await feed.changes()
    await post(client, "characters/save", key="Mira", name="Mira", context="Charts.")
    assert await feed.changes() is None  # nothing that is shown has changed
    await answered(ctx, chat)
    assert ["Maps." in r.prompt for r in engine.requests] == [True, False]
    assert "system\nCharts.<|im_end|>" in engine.requests[-1].prompt


async def test_a_chat_outlives_its_character(
    ctx: AppContext, client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await post(client, "characters/save", **MIRA)
    chat = await begun(ctx, client, character="Mira")
    await post(client, "characters/delete", name="Mira")
    reply = (await answered(ctx, chat))[-1]
    assert reply.state == "complete" and "Maps." not in engine.requests[-1].prompt
    character = (await head(ctx, chat))["chat"]["character"]
    assert character["problem"] == "The character Mira is gone; replies are written without it."


async def test_a_damaged_character_fails_the_reply_and_not_the_message(
    ctx: AppContext, client: httpx.AsyncClient
) -> None:
    await post(client, "characters/save", **MIRA)
    chat = await begun(ctx, client, character="Mira")
    (ctx.settings.paths.own_characters / "Mira.yaml").write_text("nme: Mira")
    *_, message, reply = await answered(ctx, chat)
    assert (message.content, reply.state) == ("Hi", "failed")
    assert "The character Mira.yaml has an unknown key 'nme'." in reply.error
    assert "unknown key" in (await head(ctx, chat))["chat"]["character"]["problem"]


async def test_the_mode_of_a_chat_changes(
    ctx: AppContext, client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    chat = await begun(ctx, client)
    await post(client, f"chats/{chat}/mode", mode="chat")
    await answered(ctx, chat)
    assert engine.requests[-1].prompt == "You: Hi\nAssistant:"
    assert (await head(ctx, chat))["messages"][-1]["name"] == "fake-model"
    wrong = await client.post(f"/chats/{chat}/mode", json={"mode": "novel"})
    assert wrong.status_code == 400


async def test_a_continued_line_goes_on_as_it_is(
    ctx: AppContext, client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    chat = await begun(ctx, client, mode="chat")
    reply = (await answered(ctx, chat))[-1]
    engine.reply = lambda request: " And more."
    await ctx.chats.continue_reply(chat, "owner", reply.id, SamplingParams())
    await ctx.chats.wait(chat)
    assert engine.requests[-1].prompt.endswith(f"Assistant: {reply.content}")
    assert (await ctx.chats.branch(chat, "owner"))[-1].content == f"{reply.content} And more."


async def test_a_model_without_a_template_is_offered_the_mode_chat(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    assert (await client.get("/modes")).json()["suggested"] == ""
    assert engine.state.info is not None
    info = dataclasses.replace(engine.state.info, chat_template=None)
    engine.state = dataclasses.replace(engine.state, info=info)
    assert (await client.get("/modes")).json()["suggested"] == "chat"
