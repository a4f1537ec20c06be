"""What is wrong with a chat template, as sentences: found by a chat of three turns.

Templates are compared by the ids of their tokens, as the loaded model would get them: a
rendered prompt without the tokenizer's special tokens, which is also how transformers encodes
what a template has rendered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from modules.chat.messages import Message
from modules.chat.template import render
from modules.chat.template_choice import ChatTemplate
from modules.chat.template_library import LIBRARY
from modules.engine.client import EngineClient
from modules.engine.protocol import Encoded, ModelInfo
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
_SHOWN_TOKENS = 6
"""Of each side, where two templates part."""


async def check_template(
    engine: EngineClient, info: ModelInfo, template: ChatTemplate
) -> list[str]:
    """What a user should know of the template of the loaded model; empty for no fault.

    The texts are encoded by the model's own tokenizer. Raises EngineError.
    """
    trial = _Trial(template, info.special_tokens)
    try:
        text = await asyncio.to_thread(trial.render, _CHAT)
    except TemplateError as error:
        return [f"It does not render: {error.message}"]
    found = await asyncio.to_thread(_turn_faults, trial, text)
    encoded = await engine.encode(text)
    found += await _token_faults(engine, trial, text, encoded)
    if template.key != "own" and info.chat_template is not None:
        own = replace(trial, template=replace(template, source=info.chat_template))
        found += await _differences(engine, own, encoded)
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


# -- the tokens -------------------------------------------------------------------------


async def _differences(engine: EngineClient, own: _Trial, here: Encoded) -> list[str]:
    """Where a template that was chosen by hand departs from the model's own."""
    try:
        there = await engine.encode(await asyncio.to_thread(own.render, _CHAT))
    except TemplateError as error:
        return [f"The model's own template does not render: {error.message}"]
    if here.ids == there.ids:
        return []
    pairs = zip(here.ids, there.ids, strict=False)
    shorter = min(len(here.ids), len(there.ids))
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), shorter)
    ours, theirs = (_beginning(one, at) for one in (here, there))
    return [
        f"It departs from the model's own template at token {at + 1}: {ours} where that has "
        f"{theirs}."
    ]


def _beginning(encoded: Encoded, at: int) -> str:
    """What stands at a token, and its id."""
    if at >= len(encoded.ids):
        return "it ends"
    text = "".join(encoded.texts[at : at + _SHOWN_TOKENS])
    return f"{text!r} (id {encoded.ids[at]})"


async def _token_faults(
    engine: EngineClient, trial: _Trial, text: str, encoded: Encoded
) -> list[str]:
    used = LIBRARY.get(trial.template.key)
    markers = used.tokens if used else ()  # the model's own fits its tokenizer
    # A tokenizer may add a token where none is asked for; then an empty text has it as well.
    added, *pieces = await engine.count_tokens(["", *markers])
    return [
        *await _bos_faults(engine, trial.special("bos_token"), text, encoded),
        *(
            f"{marker} is {count - added} tokens to this tokenizer and should be one: the model "
            "was hardly trained on this template."
            for marker, count in zip(markers, pieces, strict=True)
            if count - added > 1
        ),
    ]


async def _bos_faults(engine: EngineClient, bos: str, text: str, encoded: Encoded) -> list[str]:
    """Whether the prompt begins with the beginning token, and with one of it."""
    if not bos:
        return []
    word = _CHAT[0].content
    plain = (await engine.encode(word)).ids
    with_special = (await engine.encode(word, special_tokens=True)).ids
    # What the tokenizer says by itself, or else writes for the token's name.
    adds = with_special[: len(with_special) - len(plain)]
    begin = (adds or (await engine.encode(bos)).ids)[:1]
    if begin and encoded.ids[:2] == begin * 2:
        if text.startswith(bos * 2):
            return [f"It writes the beginning token {bos} twice."]
        return [f"It writes the beginning token {bos}, and the tokenizer adds it again."]
    if adds and encoded.ids[:1] != begin:
        return [f"It does not write the beginning token {bos}, which the tokenizer puts first."]
    return []
