"""Prompts that fit their context."""

from __future__ import annotations

import dataclasses

import pytest

from modules.chat import prompt as prompts
from modules.chat.messages import Message
from modules.chat.prompt import ChatPrompt
from modules.chat.template_choice import TemplateChoices
from modules.engine.fake import FakeEngine
from modules.engine.params import SamplingParams
from modules.engine.protocol import LoadModel
from modules.errors import NoModelError, PromptTooLongError

pytestmark = pytest.mark.anyio


class CountingEngine(FakeEngine):
    calls = 0

    async def count_tokens(self, texts: list[str], special_tokens: bool = False) -> list[int]:
        self.calls += 1
        return await super().count_tokens(texts, special_tokens)


async def loaded(context: int, template: str | None = "") -> CountingEngine:
    engine = CountingEngine(context_length=context)
    info = await engine.load(LoadModel("models/fake"))
    if template != "":
        info = dataclasses.replace(info, chat_template=template)
        engine.state = dataclasses.replace(engine.state, info=info)
    return engine


def turns(count: int, words: int = 10) -> list[Message]:
    """`count` turns of two messages; message k says `<k>` and then `word`s."""
    roles = ("user", "assistant") * count
    return [Message(r, f"<{k}>" + " word" * (words - 1)) for k, r in enumerate(roles)]


SYSTEM = Message("system", "Be brief.")
QUESTION = Message("user", "And now?")
PARAMS = SamplingParams(max_new_tokens=20)


async def build_chat_prompt(
    engine: FakeEngine,
    messages: list[Message],
    params: SamplingParams,
    continue_final: bool = False,
) -> ChatPrompt:
    return await prompts.build_chat_prompt(
        engine, messages, params, TemplateChoices(), continue_final=continue_final
    )


async def fits(engine: FakeEngine, prompt: ChatPrompt) -> bool:
    return await engine.count_tokens([prompt.text]) == [prompt.tokens] and (
        prompt.tokens <= prompt.room
    )


async def test_a_chat_that_fits_is_whole_and_counted_once() -> None:
    engine = await loaded(2048)
    prompt = await build_chat_prompt(engine, [SYSTEM, *turns(3), QUESTION], PARAMS)
    assert (prompt.dropped, prompt.sentence, engine.calls) == (0, "", 1)
    assert prompt.text.startswith("<|im_start|>system\nBe brief.<|im_end|>")
    assert prompt.text.endswith("And now?<|im_end|>\n<|im_start|>assistant\n")
    assert (prompt.context, prompt.room, prompt.stop) == (2048, 2028, ())


async def test_the_oldest_turns_go_first_and_the_system_message_stays() -> None:
    engine = await loaded(120)
    prompt = await build_chat_prompt(engine, [SYSTEM, *turns(10), QUESTION], PARAMS)
    assert prompt.dropped == 6
    assert "Be brief." in prompt.text and "And now?" in prompt.text
    assert "<11>" not in prompt.text and "<12>" in prompt.text
    assert await fits(engine, prompt)


async def test_no_turn_is_dropped_that_would_have_fitted() -> None:
    engine = await loaded(120)
    prompt = await build_chat_prompt(engine, [SYSTEM, *turns(10), QUESTION], PARAMS)
    one_more = await build_chat_prompt(
        await loaded(10_000), [SYSTEM, *turns(10)[10:], QUESTION], PARAMS
    )
    assert one_more.tokens > prompt.room


async def test_the_sentence_says_what_is_left_out() -> None:
    engine = await loaded(120)
    prompt = await build_chat_prompt(engine, [SYSTEM, *turns(10), QUESTION], PARAMS)
    assert prompt.sentence == (
        "The 6 oldest turns (12 messages) will be left out: "
        f"the chat has {prompt.full_tokens} tokens, and 100 fit beside the reply."
    )


def test_the_sentence_counts_in_the_singular() -> None:
    prompt = ChatPrompt("", 900, 1024, 1000, 1, dropped_messages=1, full_tokens=1200)
    assert prompt.sentence == (
        "The oldest turn (1 message) will be left out: "
        "the chat has 1,200 tokens, and 1,000 fit beside the reply."
    )


async def test_a_large_reply_limit_reserves_no_more_than_a_quarter() -> None:
    engine = await loaded(1000)
    prompt = await build_chat_prompt(engine, turns(1), SamplingParams(max_new_tokens=8000))
    assert prompt.room == 750


async def test_truncation_length_narrows_the_context() -> None:
    engine = await loaded(2048)
    prompt = await build_chat_prompt(engine, turns(20), PARAMS.replace(truncation_length=100))
    assert prompt.context == 100 and prompt.dropped > 0 and await fits(engine, prompt)


async def test_truncation_length_cannot_widen_the_context() -> None:
    engine = await loaded(128)
    prompt = await build_chat_prompt(engine, turns(1), PARAMS.replace(truncation_length=4096))
    assert prompt.context == 128


async def test_a_last_turn_that_needs_the_reserve_is_still_sent() -> None:
    engine = await loaded(100)
    long = Message("user", "word " * 85)
    prompt = await build_chat_prompt(engine, [*turns(3), long], PARAMS)
    assert prompt.dropped == 3 and prompt.room < prompt.tokens < prompt.context


async def test_a_last_turn_beyond_the_context_is_refused_with_its_size() -> None:
    engine = await loaded(100)
    with pytest.raises(PromptTooLongError, match=r"prompt of 204 tokens.*holds 100"):
        await build_chat_prompt(engine, [*turns(3), Message("user", "word " * 200)], PARAMS)


async def test_a_greeting_before_the_first_question_is_the_oldest_turn() -> None:
    engine = await loaded(100)
    greeting = Message("assistant", "Hello. " + "word " * 60)
    prompt = await build_chat_prompt(engine, [SYSTEM, greeting, *turns(1), QUESTION], PARAMS)
    assert (prompt.dropped, prompt.dropped_messages) == (1, 1)
    assert "Hello." not in prompt.text and "<0>" in prompt.text


async def test_several_replies_leave_with_their_question() -> None:
    engine = await loaded(100)
    chat = [*turns(1, 30), Message("assistant", "again " * 30), *turns(1), QUESTION]
    prompt = await build_chat_prompt(engine, chat, PARAMS)
    assert (prompt.dropped, prompt.dropped_messages) == (1, 3)


@pytest.mark.parametrize("context", [60, 100, 1000, 5000, 11_000, 16_000, 16_500])
async def test_1500_messages_are_cut_in_a_dozen_counts(context: int) -> None:
    engine = await loaded(context)
    prompt = await build_chat_prompt(engine, [SYSTEM, *turns(750), QUESTION], PARAMS)
    assert engine.calls <= 12 and prompt.dropped > 0
    assert await fits(engine, prompt)


@pytest.mark.parametrize("first", [1, 3000])
async def test_turns_of_uneven_length_are_cut_in_a_dozen_counts(first: int) -> None:
    engine = await loaded(2000)
    chat = [*turns(350, first), *turns(350, 3001 - first), QUESTION]
    prompt = await build_chat_prompt(engine, chat, PARAMS)
    assert engine.calls <= 12 and await fits(engine, prompt)


async def test_a_continued_reply_ends_the_prompt() -> None:
    engine = await loaded(100)
    prompt = await build_chat_prompt(engine, turns(10), PARAMS, continue_final=True)
    assert prompt.dropped > 0 and prompt.text.endswith("<19>" + " word" * 9)


async def test_a_model_without_a_template_gets_plain_text_and_a_stop_string() -> None:
    engine = await loaded(2048, template=None)
    prompt = await build_chat_prompt(engine, [SYSTEM, QUESTION], PARAMS)
    assert prompt.text == "Be brief.\n\nUser: And now?\nAssistant:"
    assert prompt.stop == ("\nUser:",)


async def test_without_a_model_there_is_no_prompt() -> None:
    with pytest.raises(NoModelError):
        await build_chat_prompt(FakeEngine(), turns(1), PARAMS)


# -- pins -------------------------------------------------------------------------------


def pinned(messages: list[Message], *places: int) -> list[Message]:
    """The messages, those at `places` pinned; message k is the stored message k."""
    return [
        dataclasses.replace(m, pinned=k in places, sources=(k,)) for k, m in enumerate(messages)
    ]


async def test_a_pinned_message_stays_in_its_place_with_its_turn() -> None:
    engine = await loaded(120)
    prompt = await build_chat_prompt(engine, [SYSTEM, *pinned(turns(10), 2), QUESTION], PARAMS)
    assert prompt.left_out == {0, 1, *range(4, 14)}
    assert prompt.text.index("<2>") < prompt.text.index("<3>") < prompt.text.index("<14>")
    assert await fits(engine, prompt)


async def test_a_pinned_reply_keeps_its_question() -> None:
    engine = await loaded(120)
    prompt = await build_chat_prompt(engine, [*pinned(turns(10), 5), QUESTION], PARAMS)
    assert {4, 5}.isdisjoint(prompt.left_out) and {2, 3, 6, 7} <= prompt.left_out


async def test_nothing_is_left_out_for_a_pin_where_everything_fits() -> None:
    prompt = await build_chat_prompt(await loaded(2048), pinned(turns(5), 3), PARAMS)
    assert (prompt.dropped, prompt.left_out, prompt.sentence) == (0, frozenset(), "")


async def test_the_sentence_says_that_pinned_turns_are_not_the_ones() -> None:
    engine = await loaded(120)
    prompt = await build_chat_prompt(engine, [SYSTEM, *pinned(turns(10), 2), QUESTION], PARAMS)
    assert prompt.sentence.startswith("The 6 oldest unpinned turns (12 messages) will be left out")


async def test_pins_that_alone_exceed_the_context_are_one_sentence() -> None:
    engine = await loaded(100)
    with pytest.raises(PromptTooLongError, match="The pinned messages and the last turn") as caught:
        await build_chat_prompt(engine, [*pinned(turns(10), *range(20)), QUESTION], PARAMS)
    assert caught.value.remedy.startswith("Unpin some of them")


@pytest.mark.parametrize("pins", [(0,), (1,), (3, 8), (6, 7)])
async def test_llama_2_which_insists_on_turns_takes_a_chat_with_pins(pins: tuple[int, ...]) -> None:
    engine = await loaded(110)
    info = engine.state.info
    assert info is not None
    info = dataclasses.replace(info, path="models/Llama-2-7B-Chat-GPTQ", chat_template=None)
    engine.state = dataclasses.replace(engine.state, info=info)
    prompt = await build_chat_prompt(engine, [SYSTEM, *pinned(turns(9), *pins), QUESTION], PARAMS)
    assert prompt.template == "llama-2" and prompt.left_out
    assert all(f"<{k}>" in prompt.text for k in pins)
    assert prompt.text.count("[INST]") == prompt.text.count("[/INST]")


@pytest.mark.parametrize("context", [200, 5000, 16_000])
async def test_1500_messages_with_pins_are_cut_in_a_dozen_counts(context: int) -> None:
    engine = await loaded(context)
    chat = [SYSTEM, *pinned(turns(750), 0, 501, 1400), QUESTION]
    prompt = await build_chat_prompt(engine, chat, PARAMS)
    assert engine.calls <= 12 and prompt.dropped > 0
    assert all(f"<{k}>" in prompt.text for k in (0, 1, 500, 501, 1400))
    assert await fits(engine, prompt)
