"""What is wrong with a chat template, as sentences: found by a chat of three turns."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from modules.chat.messages import Message
from modules.chat.template import render
from modules.chat.template_choice import ChatTemplate
from modules.chat.template_library import LIBRARY
from modules.engine.client import EngineClient
from modules.engine.protocol import ModelInfo
from modules.errors import TemplateError

__all__ = ["check_template"]

# Words that no template trims, splits or contains.
_SYSTEM = Message("system", "LanternRules")
_CHAT = (
    Message("user", "LanternAsksFirst"),
    Message("assistant", "LanternAnswersFirst"),
    Message("user", "LanternAsksSecond"),
    Message("assistant", "LanternAnswersSecond"),
    Message("user", "LanternAsksThird"),
)
_LAST_REPLY = Message("assistant", "LanternAnswersThird")


async def check_template(
    engine: EngineClient, info: ModelInfo, template: ChatTemplate
) -> list[str]:
    """What a user should know of the template of the loaded model; empty for no fault.

    The texts are counted by the model's own tokenizer. Raises EngineError.
    """
    trial = _Trial(template, info.special_tokens)
    try:
        text = await asyncio.to_thread(trial.render, _CHAT)
    except TemplateError as error:
        return [f"It does not render: {error.message}"]
    found = await asyncio.to_thread(_turn_faults, trial, text)
    found += await _token_faults(engine, trial, text)
    if template.key != "own" and info.chat_template is not None:
        own = replace(trial, template=replace(template, source=info.chat_template))
        found += await asyncio.to_thread(_differences, own, text)
    return found


@dataclass(frozen=True, slots=True)
class _Trial:
    """A template, and the special tokens that it is rendered with."""

    template: ChatTemplate
    special_tokens: Mapping[str, str]

    def render(self, messages: Sequence[Message], generate: bool = True) -> str:
        """Raises TemplateError."""
        source, special = self.template.source, self.special_tokens
        return render(source, messages, special_tokens=special, add_generation_prompt=generate)

    def special(self, name: str) -> str:
        """A special token, or an empty text where the tokenizer has none."""
        return self.special_tokens.get(name, "")


# -- the text ---------------------------------------------------------------------------


def _turn_faults(trial: _Trial, text: str) -> list[str]:
    found = []
    if not all(message.content in text for message in _CHAT):
        found.append("It leaves out turns of the chat.")
    found += _system_faults(trial)
    found += _greeting_faults(trial)
    try:
        found += _end_faults(trial, text)
        found += _opening_faults(trial, text)
    except TemplateError as error:
        found.append(f"It does not render without a generation prompt: {error.message}")
    return found


def _system_faults(trial: _Trial) -> list[str]:
    try:
        text = trial.render([_SYSTEM, *_CHAT])
    except TemplateError as error:
        return [f"It does not render with a system message: {error.message}"]
    return [] if _SYSTEM.content in text else ["It leaves out the system message."]


def _greeting_faults(trial: _Trial) -> list[str]:
    try:
        trial.render([_LAST_REPLY, *_CHAT])
    except TemplateError:
        return [
            "Its roles must alternate and begin with yours, so that a chat which opens with a "
            "greeting is refused."
        ]
    return []


def _end_faults(trial: _Trial, text: str) -> list[str]:
    """Whether something between a reply and the next question ends the reply."""
    after = text.partition(_CHAT[1].content)[2].partition(_CHAT[2].content)[0]
    ends = [end for end in (trial.special("eos_token"), *trial.template.stop) if end]
    if any(end in after for end in ends):
        return []
    eos = trial.special("eos_token") or "none is known"
    return [
        f"It writes no end token ({eos}) after the assistant's turn, so the model may not stop, "
        "and go on in your name."
    ]


def _opening_faults(trial: _Trial, text: str) -> list[str]:
    """Whether the prompt ends where a reply begins."""
    if text != trial.render(_CHAT, generate=False):
        return []
    whole = trial.render([*_CHAT, _LAST_REPLY], generate=False)
    opening = whole[: whole.rfind(_LAST_REPLY.content)]
    if opening.rstrip() == text.rstrip():  # [/INST] opens the reply already
        return []
    return [
        "It has no generation prompt: the prompt ends before the assistant's turn is opened, so "
        "the model may write another turn of yours."
    ]


def _differences(own: _Trial, text: str) -> list[str]:
    """Where a template that was chosen by hand departs from the model's own."""
    try:
        expected = own.render(_CHAT)
    except TemplateError as error:
        return [f"The model's own template does not render: {error.message}"]
    if text == expected:
        return []
    pairs = zip(text, expected, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(text), len(expected)))
    here, there = (repr(one[at : at + 24]) for one in (text, expected))
    return [f"It departs from the model's own template: {here} stands where that has {there}."]


# -- the tokens -------------------------------------------------------------------------


async def _token_faults(engine: EngineClient, trial: _Trial, text: str) -> list[str]:
    bos, word = trial.special("bos_token"), _CHAT[0].content
    used = LIBRARY.get(trial.template.key)
    markers = used.tokens if used else ()  # the model's own fits its tokenizer
    # A tokenizer may add a token where none is asked for; then an empty text has it as well.
    added, plain, *pieces = await engine.count_tokens(["", word, *markers])
    (with_special,) = await engine.count_tokens([word], special_tokens=True)
    return [
        *_bos_faults(bos, text, adds=with_special > plain, again=added > 0),
        *(
            f"{marker} is {count - added} tokens to this tokenizer and should be one: the model "
            "was hardly trained on this template."
            for marker, count in zip(markers, pieces, strict=True)
            if count - added > 1
        ),
    ]


def _bos_faults(bos: str, text: str, *, adds: bool, again: bool) -> list[str]:
    """`adds`: the tokenizer puts one before plain text; `again`: before a prompt as well."""
    if not bos:
        return []
    written = text.startswith(bos)
    if text.startswith(bos * 2):
        return [f"It writes the beginning token {bos} twice."]
    if written and again:
        return [f"It writes the beginning token {bos}, and the tokenizer adds it again."]
    if adds and not written and not again:
        return [f"It does not write the beginning token {bos}, which the tokenizer puts first."]
    return []
