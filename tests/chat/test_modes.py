"""The exact texts of the three modes, as text-generation-webui has them."""

from __future__ import annotations

import dataclasses

import pytest

from modules.chat.cast import Cast
from modules.chat.messages import Message, Role
from modules.chat.modes import render_chat_mode, stops
from modules.chat.prompt import ChatPrompt, build_chat_prompt
from modules.chat.store import Mode
from modules.chat.template_choice import ChatTemplate, TemplateChoices
from modules.chat.template_library import LIBRARY
from modules.engine.fake import CHATML, FakeEngine
from modules.engine.params import SamplingParams
from modules.engine.protocol import LoadModel
from modules.errors import TemplateError

TEMPLATE = ChatTemplate("own", CHATML, ("<|im_end|>",), "")
GREETING = Message("assistant", "Mind the steps.")
CHAT = [GREETING, Message("user", "Hello")]
SYSTEM = Message("system", "Be brief.")


def cast(mode: Mode) -> Cast:
    return Cast(mode, "Ann", "Tamsin", "Tamsin keeps a lighthouse.", "Tamsin")


def rendered(
    mode: Mode, messages: list[Message], *, continue_final: bool = False, template: str = CHATML
) -> str:
    form = dataclasses.replace(TEMPLATE, source=template)
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    return render_chat_mode(
        cast(mode), form, messages, special_tokens=special, continue_final=continue_final
    )


def test_chat_is_a_transcript() -> None:
    assert rendered("chat", CHAT) == (
        "Tamsin keeps a lighthouse.\n\nTamsin: Mind the steps.\nAnn: Hello\nTamsin:"
    )


def test_the_chats_system_message_follows_the_context() -> None:
    assert rendered("chat", [SYSTEM, *CHAT[1:]]) == (
        "Tamsin keeps a lighthouse.\n\nBe brief.\n\nAnn: Hello\nTamsin:"
    )


def test_a_reply_in_a_transcript_goes_on_where_it_ended() -> None:
    begun = [*CHAT, Message("assistant", "Good evening, ")]
    assert rendered("chat", begun, continue_final=True).endswith(
        "Ann: Hello\nTamsin: Good evening, "
    )


def test_chat_instruct_asks_for_the_next_line_of_the_transcript() -> None:
    assert rendered("chat-instruct", [SYSTEM, *CHAT]) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n"
        'Continue the chat dialogue below. Write a single reply for the character "Tamsin".\n\n'
        "Tamsin keeps a lighthouse.\n\nTamsin: Mind the steps.\nAnn: Hello\n<|im_end|>\n"
        "<|im_start|>assistant\nTamsin:"
    )


def test_chat_instruct_goes_on_with_a_reply_outside_of_the_transcript() -> None:
    begun = [*CHAT, Message("assistant", "Good")]
    text = rendered("chat-instruct", begun, continue_final=True)
    assert text.endswith("Ann: Hello\n<|im_end|>\n<|im_start|>assistant\nTamsin: Good")
    assert text.count("Good") == 1


def test_the_users_side_can_be_written_too() -> None:
    begun = [*CHAT, Message("assistant", "Evening."), Message("user", "")]
    assert rendered("chat", begun, continue_final=True).endswith("Tamsin: Evening.\nAnn:")
    text = rendered("chat-instruct", begun, continue_final=True)
    assert 'for the character "Ann"' in text and text.endswith("assistant\nAnn:")


def test_instruct_puts_the_context_before_the_system_message() -> None:
    assert rendered("instruct", [SYSTEM, Message("user", "Hello")]) == (
        "<|im_start|>system\nTamsin keeps a lighthouse.\n\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    )


def test_without_a_character_instruct_is_the_template_alone() -> None:
    text = render_chat_mode(
        Cast(), TEMPLATE, [Message("user", "Hi")], special_tokens={}, continue_final=False
    )
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("mode", ["instruct", "chat-instruct"])
def test_the_beginning_token_comes_once(mode: Mode) -> None:
    text = rendered(mode, CHAT[1:], template=LIBRARY["llama-2"].source)
    assert text.count("<s>") == 1 and text.startswith("<s>[INST] ")


def test_a_greeting_is_taken_by_a_template_that_wants_a_question_first() -> None:
    strict = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('alternate') }}{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    )
    text = rendered("instruct", CHAT, template=strict)
    assert text == ("[user]Tamsin keeps a lighthouse.[assistant]Mind the steps.[user]Hello")


@pytest.mark.parametrize("mode", ["chat", "chat-instruct"])
def test_nothing_is_nothing_to_continue(mode: Mode) -> None:
    with pytest.raises(TemplateError, match="no message to be continued"):
        rendered(mode, [], continue_final=True)


def test_each_mode_has_its_stops() -> None:
    names = ("\nAnn:", "\nTamsin:")
    assert stops(cast("instruct"), TEMPLATE) == ("<|im_end|>",)
    assert stops(cast("chat"), TEMPLATE) == names
    assert stops(cast("chat-instruct"), TEMPLATE) == ("<|im_end|>", *names)


# -- cut to the context -----------------------------------------------------------------


async def built(mode: Mode, turns: int, context: int) -> tuple[FakeEngine, ChatPrompt]:
    engine = FakeEngine(context_length=context)
    await engine.load(LoadModel("models/fake"))
    roles: tuple[Role, ...] = ("user", "assistant") * turns
    chat = [Message(role, f"<{k}>" + " word" * 9) for k, role in enumerate(roles)]
    chat.append(Message("user", "And now?"))
    params = SamplingParams(max_new_tokens=20)
    return engine, await build_chat_prompt(engine, chat, params, TemplateChoices(), cast=cast(mode))


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["instruct", "chat-instruct", "chat"])
async def test_the_oldest_turns_leave_and_the_context_stays(mode: Mode) -> None:
    engine, prompt = await built(mode, 10, 150)
    assert prompt.dropped > 0
    assert "Tamsin keeps a lighthouse." in prompt.text and "And now?" in prompt.text
    assert "<0>" not in prompt.text and "<19>" in prompt.text
    counted = await engine.count_tokens([prompt.text], prompt.special_tokens)
    assert counted == [prompt.tokens] and prompt.tokens <= prompt.room


@pytest.mark.anyio
async def test_a_transcript_wants_the_tokenizers_own_beginning() -> None:
    _, transcript = await built("chat", 1, 2048)
    _, templated = await built("chat-instruct", 1, 2048)
    assert (transcript.special_tokens, transcript.template) == (True, "")
    assert (templated.special_tokens, templated.template) == (False, "own")
