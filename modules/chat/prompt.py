"""`ChatPrompt`: a conversation as the loaded model reads it, cut to its context."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from modules.chat.messages import Message
from modules.chat.template import render
from modules.chat.template_choice import ChatTemplate, TemplateChoices
from modules.engine.client import EngineClient
from modules.engine.params import SamplingParams
from modules.engine.protocol import ModelInfo
from modules.errors import NoModelError, PromptTooLongError

__all__ = [
    "ChatPrompt",
    "build_chat_prompt",
    "loaded_model",
    "render_chat",
    "usable_context",
]


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """What is sent for a chat. Numbers are tokens, but for `dropped*`.

    `context` is what prompt and reply share, `room` what the prompt gets of it. The
    `dropped` oldest turns have `dropped_messages` messages; with them the prompt would
    have `full_tokens`. `stop` ends a reply, as the chat template has it;
    `template` is the template's name.
    """

    text: str
    tokens: int
    context: int
    room: int
    dropped: int = 0
    stop: tuple[str, ...] = ()
    dropped_messages: int = 0
    full_tokens: int = 0
    template: str = ""

    @property
    def sentence(self) -> str:
        """What the user should know before sending: what is left out. Empty for nothing."""
        if not self.dropped:
            return ""
        turns = "oldest turn" if self.dropped == 1 else f"{self.dropped:,} oldest turns"
        messages = (
            "1 message" if self.dropped_messages == 1 else f"{self.dropped_messages:,} messages"
        )
        return (
            f"The {turns} ({messages}) will be left out: the chat has "
            f"{self.full_tokens:,} tokens, and {self.room:,} fit beside the reply."
        )


@dataclass(frozen=True, slots=True)
class _Rendered:
    text: str
    tokens: int


def loaded_model(engine: EngineClient) -> ModelInfo:
    """What is loaded and answers. Raises NoModelError."""
    state = engine.state
    if state.phase != "ready" or state.info is None:
        raise NoModelError
    return state.info


def usable_context(info: ModelInfo, params: SamplingParams) -> int:
    """Tokens that prompt and reply share, under `params.truncation_length`."""
    return min(params.truncation_length or info.context_length, info.context_length)


async def render_chat(
    info: ModelInfo,
    template: ChatTemplate,
    messages: Sequence[Message],
    *,
    continue_final: bool = False,
) -> str:
    """The prompt for all of `messages`, uncut. Raises TemplateError.

    In a thread, since a template from a stranger may take a second of processor time.
    """
    return await asyncio.to_thread(
        render,
        template.source,
        messages,
        special_tokens=info.special_tokens,
        continue_final=continue_final,
    )


async def build_chat_prompt(
    engine: EngineClient,
    messages: Sequence[Message],
    params: SamplingParams,
    templates: TemplateChoices,
    *,
    continue_final: bool = False,
) -> ChatPrompt:
    """The prompt for `messages`, less the oldest turns where they exceed the context.

    System messages and the last turn always stay. Raises PromptTooLongError when these
    alone exceed the context, NoModelError, TemplateError, SettingsError, and EngineError.
    """
    info = loaded_model(engine)
    context = usable_context(info, params)
    # A large max_new_tokens is a limit, not a wish; were all of it reserved, it would push
    # the history out. A reply that needs more than a quarter still takes what is free.
    room = context - min(params.max_new_tokens, context // 4)
    template = await asyncio.to_thread(templates.template_of, info)
    cutter = _Cutter(engine, info, template, messages, continue_final)
    (whole,) = await cutter.rendered([0])
    dropped, kept = (0, whole)
    if whole.tokens > room:
        dropped, kept = await _cut(cutter, whole, room)
    _check_fits(kept, context)
    return ChatPrompt(
        kept.text,
        kept.tokens,
        context,
        room,
        dropped,
        template.stop,
        dropped_messages=len(messages) - len(cutter.without(dropped)),
        full_tokens=whole.tokens,
        template=template.key,
    )


def _check_fits(kept: _Rendered, context: int) -> None:
    if kept.tokens >= context:
        raise PromptTooLongError(
            f"The last turn alone makes a prompt of {kept.tokens:,} tokens, "
            f"and the context holds {context:,}.",
            "Shorten the message, or use a model with a longer context.",
        )


class _Cutter:
    """Renders one chat without its first turns."""

    def __init__(
        self,
        engine: EngineClient,
        info: ModelInfo,
        template: ChatTemplate,
        messages: Sequence[Message],
        continue_final: bool,
    ) -> None:
        self._engine = engine
        self._info = info
        self._template = template
        self._messages = messages
        self._continue_final = continue_final
        self._starts = _turn_starts(messages)

    @property
    def most(self) -> int:
        """How many turns can be dropped: all but the last."""
        return max(0, len(self._starts) - 1)

    def without(self, turns: int) -> list[Message]:
        """The messages less the first `turns` turns; system messages stay."""
        begin = self._starts[turns] if turns else 0
        return [m for i, m in enumerate(self._messages) if i >= begin or m.role == "system"]

    async def rendered(self, choices: Sequence[int]) -> list[_Rendered]:
        """The prompt for each number of dropped turns, counted in one call."""
        texts = [
            await render_chat(
                self._info,
                self._template,
                self.without(turns),
                continue_final=self._continue_final,
            )
            for turns in choices
        ]
        counts = await self._engine.count_tokens(texts)
        return [_Rendered(text, tokens) for text, tokens in zip(texts, counts, strict=True)]

    def guess(self, share: float) -> int:
        """How many turns to drop to keep about `share` of the characters."""
        sizes = [len(m.content) + 1 for m in self._messages]
        budget = share * sum(sizes)
        ends = [*self._starts[1:], len(sizes)]
        for turn in range(self.most, 0, -1):
            budget -= sum(sizes[self._starts[turn] : ends[turn]])
            if budget < 0:
                return min(turn + 1, self.most)
        return 0


def _turn_starts(messages: Sequence[Message]) -> list[int]:
    """Where each turn begins: at a user message, or at a greeting before the first one."""
    starts = [i for i, m in enumerate(messages) if m.role == "user"]
    first = next((i for i, m in enumerate(messages) if m.role != "system"), None)
    if first is not None and (not starts or first < starts[0]):
        starts.insert(0, first)
    return starts


async def _cut(cutter: _Cutter, whole: _Rendered, room: int) -> tuple[int, _Rendered]:
    """The fewest turns to drop so that the rest has `room` tokens, or all but the last.

    Bisection between bounds that a guess from the lengths has drawn close: 1,500
    messages take about 6 calls of the tokenizer instead of 12.
    """
    margin = 1 + cutter.most // 50
    guess = cutter.guess(room / whole.tokens)
    low, high = 0, cutter.most
    probes = sorted({max(0, guess - margin), min(high, guess + margin), high} - {0})
    if not probes:
        return 0, whole
    found = dict(zip(probes, await cutter.rendered(probes), strict=True))
    best = found[high]
    if best.tokens > room:
        return high, best
    for turns, rendered in found.items():
        low, high, best = _narrowed(low, high, best, turns, rendered, room)
    while high - low > 1:
        middle = (low + high) // 2
        (rendered,) = await cutter.rendered([middle])
        low, high, best = _narrowed(low, high, best, middle, rendered, room)
    return high, best


def _narrowed(
    low: int, high: int, best: _Rendered, turns: int, rendered: _Rendered, room: int
) -> tuple[int, int, _Rendered]:
    """The bounds after `turns` was tried: `low` is too few, `high` is enough."""
    if rendered.tokens > room:
        return max(low, turns), high, best
    return (low, turns, rendered) if turns < high else (low, high, best)
