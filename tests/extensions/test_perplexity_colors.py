"""The shipped perplexity_colors: a colour for each token, by how likely it was."""

from __future__ import annotations

import pytest

from modules.chat.cast import Casting
from modules.chat.service import ChatService
from modules.chat.store import ChatStore
from modules.chat.template_choice import TemplateChoices
from modules.engine.fake import FakeEngine
from modules.engine.params import SamplingParams
from modules.extensions.chat import ExtensionHooks
from modules.settings import Settings
from tests.chats import asked
from tests.engine.remote.helpers import connected
from tests.extensions.conftest import Chats, Manage
from tests.peers import second_lantern

pytestmark = pytest.mark.anyio

PARIS = "The capital of France is Paris."


def token(probability: float) -> dict[str, object]:
    return {"text": "x", "probability": probability, "alternatives": []}


async def known(chats: ChatService, chat: int, place: int = -1) -> list[str]:
    """The texts of the tokens of which something is known."""
    message = (await chats.branch(chat, "owner"))[place]
    parts = await chats.views.tokens(chat, "owner", message.id)
    assert "".join(part.text for part in parts) in ("", message.content)
    return [part.text for part in parts if part.token is not None]


async def test_the_less_likely_the_stronger_the_colour(manage_shipped: Manage) -> None:
    manager = manage_shipped("perplexity_colors")
    (script,) = manager.plugins()
    tokens = [token(p) for p in (1.0, 0.9, 0.89, 0.5, 0.49, 0.1, 0.09, 0.0)]
    found = await manager.call(script, "token_colors", tokens)
    colors = found["colors"]
    assert colors[:2] == ["", ""]
    assert [len(set(colors[i : i + 2])) for i in (0, 2, 4, 6)] == [1, 1, 1, 1]
    assert len(set(colors)) == 4
    assert [color for color, _ in found["legend"]] == colors[::2]


async def test_its_limits_work_at_once_in_whatever_order(manage_shipped: Manage) -> None:
    manager = manage_shipped("perplexity_colors")
    (script,) = manager.plugins()
    await manager.set_param("perplexity_colors", "likely", 0.05)
    found = await manager.call(script, "token_colors", [token(0.6), token(0.04)])
    assert found["colors"][0] == "" != found["colors"][1]
    assert found["legend"][0] == ("", "50% and more")


async def test_versions_and_what_goes_on_have_their_tokens_after_a_restart(
    manage_shipped: Manage, chats: Chats, engine: FakeEngine
) -> None:
    service = chats(manage_shipped("perplexity_colors"))
    chat = await asked(service, "Hi")
    reply = (await service.branch(chat, "owner"))[-1]
    assert "".join(await known(service, chat)) == PARIS
    engine.reply = lambda request: " It is."
    await service.continue_reply(chat, "owner", reply.id, SamplingParams())
    await service.wait(chat)
    assert await known(service, chat) == [" It", " is."]
    await service.regenerate(chat, "owner", reply.id, SamplingParams(), beginning="Well,")
    await service.wait(chat)
    again = chats(manage_shipped())
    assert await known(again, chat) == [" It", " is."]
    await again.show_version(chat, "owner", reply.id)
    assert "".join(await known(again, chat)) == PARIS


async def test_without_it_nothing_is_asked_for_and_nothing_kept(
    manage_shipped: Manage, chats: Chats, engine: FakeEngine
) -> None:
    service = chats(manage_shipped("long_replies"))
    chat = await asked(service, "Hi")
    assert engine.requests[-1].logprobs is None
    assert await known(service, chat) == []


async def test_it_works_with_the_model_of_another_server(
    manage_shipped: Manage, settings: Settings
) -> None:
    hooks = ExtensionHooks(manage_shipped("perplexity_colors"))
    with second_lantern() as peer:
        async with connected(peer.url) as engine:
            store = ChatStore(settings.paths.database)
            templates = TemplateChoices(settings.templates_yaml)
            service = ChatService(store, engine, templates, Casting(), hooks)
            chat = await asked(service, "one two")
            reply = (await service.branch(chat, "owner"))[-1]
            assert len(reply.content) > 20
            assert "".join(await known(service, chat)) == reply.content
            await service.close()
            store.close()
