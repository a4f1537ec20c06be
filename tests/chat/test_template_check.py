"""Faults of chat templates, each by a template that has it."""

from __future__ import annotations

import dataclasses
import re
import zlib

import pytest

from modules.chat.template_check import check_template
from modules.chat.template_choice import ChatTemplate, TemplateChoices
from modules.chat.template_library import LIBRARY
from modules.engine.fake import FakeEngine
from modules.engine.protocol import Encoded, LoadModel, ModelInfo

pytestmark = pytest.mark.anyio

ONE = "<s>|</s>|<\\|\\w+\\|>|<\\w+_of_turn>|\\w+|\\S"
SPLIT = "</?s>|\\w+|\\S"
LOOP = "{% for m in messages %}"
TURN = "[{{ m.role }}] {{ m.content }}"
END = "{% endfor %}"
OPEN = "{% if add_generation_prompt %}[assistant] {% endif %}"
GOOD = "<s>" + LOOP + TURN + "</s>" + END + OPEN


class Tokenizing(FakeEngine):
    """Its tokens are matches of `pattern`; one <s> is put first where `before` says so."""

    pattern = ONE
    before = 0

    async def encode(self, text: str, special_tokens: bool = False) -> Encoded:
        tokens = re.findall(self.pattern, text)
        if self.before or (special_tokens and tokens[:1] != ["<s>"]):
            tokens.insert(0, "<s>")
        return Encoded("", tuple(zlib.crc32(token.encode()) for token in tokens), tuple(tokens))

    async def count_tokens(self, texts: list[str], special_tokens: bool = False) -> list[int]:
        return [len((await self.encode(text, special_tokens)).ids) for text in texts]


async def faults(
    template: str,
    *,
    own: str | None = None,
    key: str = "own",
    pattern: str = ONE,
    before: int = 0,
    stop: tuple[str, ...] | None = None,
) -> list[str]:
    engine = Tokenizing()
    engine.pattern, engine.before = pattern, before
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    loaded = await engine.load(LoadModel("models/fake"))
    info: ModelInfo = dataclasses.replace(
        loaded, chat_template=own or template, special_tokens=special
    )
    chosen = TemplateChoices().template_of(info)
    if key != "own":
        chosen = ChatTemplate(key, template, stop or LIBRARY[key].stop, "")
    return await check_template(engine, info, chosen)


async def test_a_good_template_has_no_fault() -> None:
    assert await faults(GOOD) == []


@pytest.mark.parametrize("key", LIBRARY)
async def test_the_library_has_no_fault_but_what_its_formats_leave_to_the_tokenizer(
    key: str,
) -> None:
    source = LIBRARY[key].source
    found = await faults(source, own=source, key=key)
    without_bos = {"chatml", "phi-3", "openassistant"}
    assert [("beginning token" in fault) for fault in found] == [True] * (key in without_bos)


async def test_a_doubled_bos_in_the_template_is_found() -> None:
    assert await faults("<s>" + GOOD) == ["It writes the beginning token <s> twice."]


async def test_a_bos_that_the_tokenizer_adds_again_is_found() -> None:
    (fault,) = await faults(GOOD, before=1)
    assert fault == "It writes the beginning token <s>, and the tokenizer adds it again."


async def test_a_missing_bos_is_found() -> None:
    (fault,) = await faults(GOOD.removeprefix("<s>"))
    assert fault.startswith("It does not write the beginning token <s>")


async def test_a_template_that_does_not_render_is_told_with_its_error() -> None:
    (fault,) = await faults("{% for m in messages %}")
    assert fault.startswith("It does not render: The chat template does not render")


async def test_a_template_that_fails_on_a_system_message_is_found() -> None:
    (fault,) = await faults("{{ 1 // 0 if messages[0].role == 'system' }}" + GOOD)
    assert fault.startswith("It does not render with a system message:")


async def test_a_refused_system_message_goes_into_the_question_and_is_no_fault() -> None:
    refusing = "{{ raise_exception('no') if messages[0].role == 'system' }}" + GOOD
    assert await faults(refusing) == []


async def test_a_missing_end_token_is_found() -> None:
    (fault,) = await faults(GOOD.replace("</s>", "\n"))
    assert "no end token (</s>)" in fault and "go on in your name" in fault


async def test_an_end_of_turn_that_is_not_the_end_token_ends_replies_all_the_same() -> None:
    assert await faults(GOOD.replace("</s>", "<|end|>")) == []


async def test_a_missing_generation_prompt_is_found() -> None:
    (fault,) = await faults(GOOD.removesuffix(OPEN))
    assert fault.startswith("It has no generation prompt")


async def test_turns_that_are_left_out_are_found() -> None:
    found = await faults(GOOD.replace("in messages", "in messages[-1:]"))
    assert "It leaves out turns of the chat." in found


async def test_tokens_of_the_format_that_the_tokenizer_lacks_are_found() -> None:
    chatml = LIBRARY["chatml"].source
    (fault,) = [
        fault
        for fault in await faults(chatml, own=chatml, key="chatml", pattern=SPLIT)
        if "one" in fault
    ]
    assert fault.startswith("<|im_start|> is 5 tokens to this tokenizer and should be one")
    assert await faults(GOOD, pattern=SPLIT) == []


async def test_marks_that_a_format_writes_in_ordinary_text_may_be_split() -> None:
    zephyr = LIBRARY["zephyr"].source
    assert await faults(zephyr, own=zephyr, key="zephyr", pattern=SPLIT) == []


async def test_a_choice_by_hand_is_compared_with_the_models_own() -> None:
    (fault,) = await faults(LIBRARY["llama-2"].source, own=GOOD, key="llama-2")
    assert re.fullmatch(
        r"It departs from the model's own template at token 3: 'INST\]LanternAsksFirst\[/INST' "
        r"\(id \d+\) where that has 'user\]LanternAsksFirst</s>\[assistant' \(id \d+\)\.",
        fault,
    )


async def test_templates_that_come_to_the_same_tokens_do_not_differ() -> None:
    assert await faults(GOOD.replace("] {{", "]  {{"), own=GOOD, key="alpaca") == []


async def test_a_template_that_ends_sooner_is_told_to_end() -> None:
    found = await faults(GOOD.removesuffix(OPEN), own=GOOD, key="alpaca")
    assert "it ends where that has '[assistant]'" in found[-1]
