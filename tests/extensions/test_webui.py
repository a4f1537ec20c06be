"""What scripts import in the place of text-generation-webui's own modules."""

from __future__ import annotations

import pytest

from modules.engine.fake import FakeEngine
from modules.errors import ExtensionError
from modules.extensions import webui
from tests.chats import asked
from tests.extensions.conftest import Chats, Manage, Write

pytestmark = pytest.mark.anyio

IMPORT = "from modules.extensions.webui import chat, decode, encode, generate_reply, shared\n"


async def shown(source: str, write: Write, manage: Manage, chats: Chats) -> str:
    """What an output_modifier with this body shows."""
    write("ours", IMPORT + "def output_modifier(string, state):\n" + source)
    manager = manage("ours")
    service = chats(manager)
    found = await asked(service, "Hello")
    (info,) = manager.infos()
    assert info.error == ""
    return (await service.branch(found, "owner"))[-1].shown


async def test_tokens_can_be_had_inside_a_hook(write: Write, manage: Manage, chats: Chats) -> None:
    body = "    return decode(encode('one two', add_special_tokens=False)[0])\n"
    assert await shown(body, write, manage, chats) == "one two"


async def test_another_reply_of_the_model_can_be_had_inside_a_hook(
    write: Write, manage: Manage, chats: Chats, engine: FakeEngine
) -> None:
    engine.reply = lambda request: request.prompt.split()[-1] + " again"
    body = "    return '|'.join(generate_reply('Say it', state))\n"
    assert await shown(body, write, manage, chats) == "it|it again"
    assert engine.running == set()


async def test_shared_tells_what_has_a_meaning_here(
    write: Write, manage: Manage, chats: Chats
) -> None:
    body = "    return f'{shared.model_name} {shared.args.listen_port} {shared.is_chat()}'\n"
    assert await shown(body, write, manage, chats) == "fake-model 7860 True"


async def test_the_transcript_of_a_chat_can_be_built(
    write: Write, manage: Manage, chats: Chats
) -> None:
    body = "    return chat.generate_chat_prompt('Well?', state)\n"
    assert await shown(body, write, manage, chats) == "You: Well?\nAssistant:"


async def test_what_is_not_there_is_said_by_name(
    write: Write, manage: Manage, chats: Chats
) -> None:
    write("ours", IMPORT + "def output_modifier(string):\n    return shared.lora_names\n")
    manager = manage("ours")
    await asked(chats(manager), "Hello")
    assert "shared.lora_names does not exist here" in manager.infos()[0].error


def test_outside_a_hook_there_is_nothing() -> None:
    with pytest.raises(ExtensionError, match="works inside hooks alone"):
        webui.encode("text")
