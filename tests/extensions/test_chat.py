"""What each hook does to a chat, to Default and to Notebook."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from modules.chat.service import ChatService
from modules.chat.store import StoredMessage
from modules.engine.fake import FakeEngine
from modules.engine.params import SamplingParams
from modules.engine.protocol import GenerateRequest
from modules.extensions.chat import ExtensionHooks
from modules.extensions.manager import ExtensionManager
from modules.ui.streaming import continuation
from tests.chats import asked
from tests.extensions.conftest import Chats, Manage, Write

pytestmark = pytest.mark.anyio

PARIS = "The capital of France is Paris."
PARAMS = SamplingParams(max_new_tokens=20)


async def branch(service: ChatService, chat: int) -> list[StoredMessage]:
    return await service.branch(chat, "owner")


def prompts(engine: FakeEngine) -> list[str]:
    return [request.prompt for request in engine.requests]


# -- messages ----------------------------------------------------------------------------


async def test_the_model_sees_what_the_input_modifiers_make_and_the_page_what_was_meant(
    write: Write, manage: Manage, chats: Chats, engine: FakeEngine
) -> None:
    write(
        "a",
        """
        def chat_input_modifier(text, visible_text, state):
            return text + " (in French)", visible_text + " 🇫🇷"
    """,
    )
    write("b", "def input_modifier(string, state, is_chat=False):\n    return string.upper()\n")
    service = chats(manage("a", "b"))
    chat = await asked(service, "Hello")
    message = (await branch(service, chat))[0]
    assert (message.content, message.shown) == ("HELLO (IN FRENCH)", "Hello 🇫🇷")
    assert "HELLO (IN FRENCH)" in prompts(engine)[-1]
    assert (await service.chat(chat, "owner")).title == "Hello 🇫🇷"


async def test_an_edited_message_goes_through_the_same_hooks_once(
    write: Write, manage: Manage, chats: Chats
) -> None:
    write("a", "def input_modifier(string):\n    return string + '!'\n")
    service = chats(manage("a"))
    chat = await asked(service, "Hello")
    message = (await branch(service, chat))[0]
    assert await service.text(chat, "owner", message.id) == "Hello"
    await service.edit(chat, "owner", message.id, "Good day", PARAMS)
    await service.wait(chat)
    edited = (await branch(service, chat))[0]
    assert (edited.content, edited.shown) == ("Good day!", "Good day")


async def test_what_the_page_shows_of_a_reply_is_not_what_the_model_sees_next(
    write: Write, manage: Manage, chats: Chats, engine: FakeEngine
) -> None:
    write(
        "a",
        """
        def output_modifier(string, state, is_chat=False):
            return f"<b>{string}</b>" if is_chat and state["history"]["internal"] == [] else string
    """,
    )
    service = chats(manage("a"))
    chat = await asked(service, "Hello", "And then?")
    messages = await branch(service, chat)
    assert messages[1].shown == f"<b>{PARIS}</b>"
    assert messages[3].shown == PARIS
    assert "<b>" not in prompts(engine)[-1]
    await service.continue_reply(chat, "owner", messages[1].id, PARAMS)
    await service.wait(chat)
    assert prompts(engine)[-1].endswith(PARIS)


async def test_extensions_are_called_in_their_order_and_later_ones_get_what_earlier_ones_gave(
    write: Write, manage: Manage, chats: Chats
) -> None:
    write("a", "def output_modifier(string):\n    return string + 'a'\n")
    write("b", "def output_modifier(string):\n    return string + 'b'\n")
    service = chats(manage("b", "a"))
    chat = await asked(service, "Hello")
    assert (await branch(service, chat))[-1].shown == PARIS + "ba"


async def test_a_stopped_reply_is_modified_as_well(
    write: Write, manage: Manage, chats: Chats, engine: FakeEngine
) -> None:
    write("a", "def output_modifier(string):\n    return '>' + string\n")
    engine.reply, engine.delay = lambda request: "word " * 5000, 0.001
    service = chats(manage("a"))
    chat = (await service.create("owner")).id
    await service.send(chat, "owner", "Hello", SamplingParams(max_new_tokens=8000))
    seen = -1
    while not (live := service.live(chat)) or not live.text:
        seen = await service.notices.changed(chat).wait(seen)
    await service.stop(chat, "owner")
    reply = (await branch(service, chat))[-1]
    assert (reply.state, reply.shown) == ("stopped", ">" + reply.content)


async def test_only_a_modifier_that_takes_is_final_sees_a_reply_grow(
    write: Write, manage: Manage, chats: Chats, engine: FakeEngine
) -> None:
    write("whole", "def output_modifier(string, state):\n    return string + '.'\n")
    write(
        "growing",
        """
        def output_modifier(string, state, is_chat=False, is_final=True):
            return string.upper() + ("|" if is_final else "…")
    """,
    )
    engine.reply, engine.delay = lambda request: "word " * 200, 0.002
    service = chats(manage("whole", "growing"))
    chat = (await service.create("owner")).id
    await service.send(chat, "owner", "Hello", SamplingParams(max_new_tokens=300))
    shown, seen = [], -1
    while live := service.live(chat):
        shown.append(live.shown)
        seen = await service.notices.changed(chat).wait(seen)
    assert all(text == "" or (text.isupper() and text.endswith("…")) for text in shown[:-1])
    assert len({text for text in shown if text}) > 2
    reply = (await branch(service, chat))[-1]
    assert reply.shown == reply.content.upper() + ".|"


async def test_a_reply_without_extensions_calls_nothing(
    manage: Manage, chats: Chats, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = manage()
    monkeypatch.setattr(manager, "modified", None)
    monkeypatch.setattr(manager, "call", None)
    service = chats(manager)
    chat = await asked(service, "Hello")
    reply = (await branch(service, chat))[-1]
    assert (reply.content, reply.visible) == (PARIS, None)
    assert engine.requests[-1].hooks is None
    assert "extensions" not in reply.about


# -- prompts -----------------------------------------------------------------------------


async def test_a_history_modifier_changes_what_the_model_sees_and_nothing_that_is_stored(
    write: Write, manage: Manage, chats: Chats, engine: FakeEngine
) -> None:
    write(
        "a",
        """
        def history_modifier(history):
            assert [len(pair) for pair in history["internal"]] == [2] * len(history["internal"])
            history["internal"] = [[user, "Rome!"] for user, reply in history["internal"][-1:]]
            return history
    """,
    )
    service = chats(manage("a"))
    chat = await asked(service, "One", "Two", "Three")
    assert "One" not in prompts(engine)[-1]
    assert "Two<|im_end|>\n<|im_start|>assistant\nRome!" in prompts(engine)[-1]
    assert "Three" in prompts(engine)[-1]
    assert [m.content for m in await branch(service, chat)][:3] == ["One", PARIS, "Two"]


async def test_a_state_modifier_changes_parameters_and_names(
    write: Write, manage: Manage, chats: Chats, engine: FakeEngine
) -> None:
    write(
        "a",
        """
        def state_modifier(state):
            assert (state["name1"], state["mode"]) == ("You", "chat")
            return {**state, "temperature": 1.5, "name2": "Ada", "custom_stopping_strings": ["#"],
                    "a_key_of_nobody": object()}
    """,
    )
    service = chats(manage("a"))
    await asked(service, "Hello", mode="chat")
    request = engine.requests[-1]
    assert (request.params.temperature, request.params.stop) == (1.5, ("#",))
    assert request.prompt.endswith("Ada:")


@pytest.mark.parametrize("change", ['"temperature": "hot"', '"temperature": 99', '"name1": 5'])
async def test_a_state_that_may_not_be_is_the_extensions_fault(
    change: str, write: Write, manage: Manage, chats: Chats
) -> None:
    write("a", f"def state_modifier(state):\n    return {{**state, {change}}}\n")
    manager = manage("a")
    service = chats(manager)
    chat = await asked(service, "Hello")
    assert (await branch(service, chat))[-1].content == PARIS
    (info,) = manager.infos()
    assert info.error.startswith("state_modifier returned what does not fit")


@pytest.mark.parametrize(
    ("mode", "end"),
    [
        ("instruct", "<|im_start|>assistant\n*sadly* "),
        ("chat", "\nAssistant: *sadly* "),
        ("chat-instruct", "\nAssistant: *sadly* "),
    ],
)
async def test_character_bias_begins_the_reply_unseen(
    mode: str, end: str, manage_shipped: Manage, chats: Chats, engine: FakeEngine
) -> None:
    manager = manage_shipped("character_bias", character_bias={"bias string": "*sadly*"})
    service = chats(manager)
    chat = await asked(service, "Hello", mode=mode)  # type: ignore[arg-type]
    assert prompts(engine)[-1].endswith(end)
    assert (await branch(service, chat))[-1].content == PARIS
    await manager.set_param("character_bias", "activate", False)
    await asked(service, "Hello", mode=mode)  # type: ignore[arg-type]
    assert "sadly" not in prompts(engine)[-1]


async def test_the_first_extension_with_a_custom_prompt_writes_it(
    write: Write, manage: Manage, chats: Chats, engine: FakeEngine
) -> None:
    write(
        "a",
        """
        def custom_generate_chat_prompt(user_input, state, **kwargs):
            assert not kwargs["_continue"] and not kwargs["impersonate"]
            return f"{len(kwargs['history']['internal'])}: {user_input}"
    """,
    )
    write("b", "def custom_generate_chat_prompt(user_input, state):\n    return 'b'\n")
    service = chats(manage("a", "b"))
    await asked(service, "Hello", "Again")
    assert prompts(engine) == ["0: Hello", "1: Again"]


async def test_a_custom_length_decides_what_is_left_out(
    write: Write, manage: Manage, chats: Chats, engine: FakeEngine
) -> None:
    write("a", "def custom_tokenized_length(prompt):\n    return 900 * prompt.count('user')\n")
    service = chats(manage("a"))
    chat = await asked(service, "One", "Two", "Three")
    assert "One" not in prompts(engine)[-1]
    assert (await branch(service, chat))[-1].about["dropped"] == 1


# -- replies -----------------------------------------------------------------------------


async def test_a_custom_reply_is_written_without_a_model(
    write: Write, manage: Manage, chats: Chats, engine: FakeEngine
) -> None:
    write(
        "a",
        """
        def custom_generate_reply(question, original_question, state, stopping_strings,
                                  is_chat=False):
            yield "I"
            yield "I say: " + question.splitlines()[-2]
    """,
    )
    await engine.unload()
    service = chats(manage("a"))
    chat = await asked(service, "Hello")
    reply = (await branch(service, chat))[-1]
    assert (reply.content, reply.state, engine.requests) == ("I say: You: Hello", "complete", [])


async def test_a_custom_reply_ends_where_the_user_stops_it(
    write: Write, manage: Manage, chats: Chats
) -> None:
    write(
        "a",
        """
        import time

        def custom_generate_reply(*args, **kwargs):
            for count in range(1, 10000):
                yield "word " * count
                time.sleep(0.001)
    """,
    )
    service = chats(manage("a"))
    chat = (await service.create("owner")).id
    await service.send(chat, "owner", "Hello", PARAMS)
    seen = -1
    while not (live := service.live(chat)) or not live.text:
        seen = await service.notices.changed(chat).wait(seen)
    await service.stop(chat, "owner")
    reply = (await branch(service, chat))[-1]
    assert reply.state == "stopped"
    assert reply.content.startswith("word")


async def test_a_custom_reply_that_returns_none_is_the_models(
    manage_shipped: Manage, chats: Chats, engine: FakeEngine
) -> None:
    manager = manage_shipped("example")
    service = chats(manager)
    chat = await asked(service, "Hello")
    reply = (await branch(service, chat))[-1]
    assert (reply.content, reply.about["extensions"]) == (PARIS, ["example"])
    await manager.set_param("example", "parrot", True)
    chat = await asked(service, "Hello")
    assert (await branch(service, chat))[-1].content.endswith("<|im_start|>assistant")


async def test_every_switch_of_the_example_does_what_it_says(
    manage_shipped: Manage, chats: Chats, engine: FakeEngine
) -> None:
    set_in_yaml = {
        "shout": True, "emoticons": True, "signature": "me", "forget_before": 1,
        "temperature_plus": 0.5, "mood": "sad", "banned_token": 3,
    }  # fmt: skip
    manager = manage_shipped("example", example=set_in_yaml)
    service = chats(manager)
    chat = await asked(service, "One :-)", "Two", "Three", mode="chat")
    request = engine.requests[-1]
    assert request.prompt.endswith(
        "You: TWO\nAssistant: " + PARIS + "\nYou: THREE\nAssistant: *sad*"
    )
    assert "ONE" not in request.prompt
    assert request.params.temperature == 0.7 + 0.5
    first, reply = (await branch(service, chat))[:2]
    assert (first.content, first.shown) == ("ONE (SMILES)", "One :-)")
    assert reply.shown == f"{PARIS}\n\n*me*"
    assert request.hooks is not None
    (extension,) = request.hooks.extensions
    assert extension.hooks == ("tokenizer_modifier", "logits_processor_modifier")
    assert extension.params["banned_token"] == 3
    assert [info.state for info in manager.infos() if info.name == "example"] == ["on"]


# -- text without a chat -----------------------------------------------------------------


async def continued(manager: ExtensionManager, engine: FakeEngine, text: str) -> str:
    pieces = continuation(engine, "id", text, PARAMS, ExtensionHooks(manager))
    return [piece.text async for piece in pieces][-1]


async def test_default_and_notebook_give_the_whole_prompt_to_the_modifiers(
    write: Write, manage: Manage, engine: FakeEngine
) -> None:
    write(
        "a",
        """
        def input_modifier(string, state, is_chat=False):
            return string if is_chat else string.upper()

        def output_modifier(string, state, is_chat=False):
            return string if is_chat else string + "!"
    """,
    )
    assert await continued(manage("a"), engine, "q:") == PARIS + "!"
    assert prompts(engine) == ["Q:"]


async def test_default_and_notebook_take_a_custom_reply_or_the_models(
    write: Write, manage: Manage, engine: FakeEngine
) -> None:
    write("a", "def custom_generate_reply(question, *rest, is_chat):\n    yield question * 2\n")
    write("b", "def custom_generate_reply(*args, **kwargs):\n    raise ValueError\n")
    assert await continued(manage("a"), engine, "q") == "qq"
    assert await continued(manage("b"), engine, "q") == PARIS


async def test_a_request_that_came_without_hooks_gets_those_that_are_on(
    write: Write, manage: Manage
) -> None:
    write("a", "def logits_processor_modifier(processors, ids):\n    return processors\n")
    manager = manage("a")
    hooks = ExtensionHooks(manager).hooks_of(GenerateRequest("id", "text", PARAMS))
    assert hooks is not None
    assert [extension.name for extension in hooks.extensions] == ["a"]
    assert hooks.state["temperature"] == PARAMS.temperature
    await manager.disable("a")
    assert ExtensionHooks(manager).hooks_of(GenerateRequest("id", "text", PARAMS)) is None


async def test_many_chats_at_once_share_an_extension(
    write: Write, manage: Manage, chats: Chats
) -> None:
    write("a", "def output_modifier(string, state):\n    return string + state['name1']\n")
    service = chats(manage("a"))
    found = await asyncio.gather(*(asked(service, f"Hello {i}") for i in range(8)))
    shown = [(await branch(service, chat))[-1].shown for chat in found]
    assert shown == [PARIS + "You"] * 8


def test_the_shipped_extensions_say_what_they_are_for() -> None:
    folder = Path(__file__).parents[2] / "extensions"
    assert {"example", "character_bias", "long_replies"} <= {one.name for one in folder.iterdir()}
