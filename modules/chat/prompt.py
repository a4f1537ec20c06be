"""`ChatPrompt`: a conversation as the loaded model reads it, cut to its context."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from modules.chat.cast import Cast
from modules.chat.hooks import NO_HOOKS, ChatHooks, Turn
from modules.chat.messages import Message
from modules.chat.modes import render_chat_mode, stops
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
    `dropped` oldest turns have `dropped_messages` messages, made of the stored ones in
    `left_out`; with them the prompt would have `full_tokens`. `pinned` turns stay in any case.
    `stop` ends a reply, as its mode and the chat template have it; `template` is the template's
    name. `special_tokens` as in `GenerateRequest`.
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
    left_out: frozenset[int] = frozenset()
    pinned: int = 0
    special_tokens: bool = False

    @property
    def sentence(self) -> str:
        """What the user should know before sending: what is left out. Empty for nothing."""
        if not self.dropped:
            return ""
        oldest = "oldest unpinned" if self.pinned else "oldest"
        turns = f"{oldest} turn" if self.dropped == 1 else f"{self.dropped:,} {oldest} turns"
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
    cast: Cast | None = None,
) -> str:
    """The prompt for all of `messages`, uncut, in the mode of `cast`. Raises TemplateError.

    In a thread, since a template from a stranger may take a second of processor time.
    """
    return await asyncio.to_thread(
        render_chat_mode,
        cast or Cast(),
        template,
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
    cast: Cast | None = None,
    hooks: ChatHooks = NO_HOOKS,
) -> ChatPrompt:
    """The prompt for `messages`, less the oldest turns where they exceed the context.

    What `cast` says of the character, system messages, the last turn and each turn with a
    pinned message always stay. `hooks` may write the prompt, and what the reply begins with.
    Raises PromptTooLongError when these alone exceed the context,
    NoModelError, TemplateError, SettingsError, and EngineError.
    """
    info = loaded_model(engine)
    context = usable_context(info, params)
    # A large max_new_tokens is a limit, not a wish; were all of it reserved, it would push
    # the history out. A reply that needs more than a quarter still takes what is free.
    room = context - min(params.max_new_tokens, context // 4)
    template = await asyncio.to_thread(templates.template_of, info)
    cast = cast or Cast()
    form = _Format(info, template, cast, continue_final, hooks)
    if hooks.active:
        turn = Turn(params, tuple(messages), cast, continue_final)
        written = await hooks.prompt(turn)
        form = replace(form, written=written, begins=await _beginning(hooks, turn))
    cutter = _Cutter(engine, form, messages)
    (whole,) = await cutter.rendered([0])
    dropped, kept = (0, whole)
    if whole.tokens > room:
        dropped, kept = await _cut(cutter, whole, room)
    _check_fits(kept, context, cutter.pinned)
    left_out = cutter.left_out(dropped)
    return ChatPrompt(
        kept.text,
        kept.tokens,
        context,
        room,
        dropped,
        stops(cast, template),
        dropped_messages=len(left_out),
        full_tokens=whole.tokens,
        template="" if cast.mode == "chat" else template.key,
        special_tokens=form.special_tokens(kept.text),
        left_out=frozenset(id_ for i in left_out for id_ in messages[i].sources),
        pinned=cutter.pinned,
    )


@dataclass(frozen=True, slots=True)
class _Format:
    """How messages become a prompt."""

    info: ModelInfo
    template: ChatTemplate
    cast: Cast
    continue_final: bool
    hooks: ChatHooks = NO_HOOKS
    written: str | None = None
    begins: tuple[str, str] = ("", "")
    """What stands before the reply, and what hooks put in its place."""

    async def text(self, messages: Sequence[Message]) -> str:
        if self.written is not None:
            return self.written
        text = await render_chat(
            self.info,
            self.template,
            messages,
            continue_final=self.continue_final,
            cast=self.cast,
        )
        before, now = self.begins
        return text.removesuffix(before) + now if text.endswith(before) else text

    def special_tokens(self, text: str) -> bool:
        """Whether the tokenizer's own are to be added: a template writes them itself."""
        if self.written is not None:
            beginning = self.info.special_tokens.get("bos_token", "")
            return not (beginning and text.startswith(beginning))
        return self.cast.mode == "chat"

    async def lengths(self, engine: EngineClient, texts: list[str]) -> list[int]:
        """Tokens in each text."""
        counted = await self.hooks.lengths(texts) if self.hooks.active else None
        if counted is not None:
            return counted
        return await engine.count_tokens(texts, self.special_tokens(texts[0]))


async def _beginning(hooks: ChatHooks, turn: Turn) -> tuple[str, str]:
    """What stands before a reply, and what it is to be; a template's own words are not told."""
    if turn.continues:
        return "", ""
    before = "" if turn.cast.mode == "instruct" else f"{turn.cast.name}:"
    now = await hooks.prefix(before, turn)
    return before, now if before else now.lstrip()


def _check_fits(kept: _Rendered, context: int, pinned: int) -> None:
    if kept.tokens < context:
        return
    what, remedy = "The last turn alone makes", "Shorten the message or what is attached to it"
    if pinned:
        what, remedy = "The pinned messages and the last turn make", "Unpin some of them"
    raise PromptTooLongError(
        f"{what} a prompt of {kept.tokens:,} tokens, and the context holds {context:,}.",
        f"{remedy}, or use a model with a longer context.",
    )


class _Cutter:
    """Renders one chat without its oldest turns.

    A turn stays or goes as a whole, so that user and assistant go on taking turns, as most
    templates insist; hence what answers a pinned message stays, too, and what it answers.
    """

    def __init__(
        self,
        engine: EngineClient,
        form: _Format,
        messages: Sequence[Message],
    ) -> None:
        self._engine = engine
        self._form = form
        self._messages = messages
        earlier = _turns(messages)[:-1]
        self._turns = [turn for turn in earlier if not any(messages[i].pinned for i in turn)]
        self.pinned = len(earlier) - len(self._turns)

    @property
    def most(self) -> int:
        """How many turns can be dropped: all but the last and the pinned ones."""
        return len(self._turns)

    def left_out(self, turns: int) -> set[int]:
        """The places of the messages of the first `turns` turns that can be dropped."""
        return {i for turn in self._turns[:turns] for i in turn}

    def without(self, turns: int) -> list[Message]:
        """The messages less these."""
        left_out = self.left_out(turns)
        return [m for i, m in enumerate(self._messages) if i not in left_out]

    async def rendered(self, choices: Sequence[int]) -> list[_Rendered]:
        """The prompt for each number of dropped turns, counted in one call."""
        texts = [await self._form.text(self.without(turns)) for turns in choices]
        counts = await self._form.lengths(self._engine, texts)
        return [_Rendered(text, tokens) for text, tokens in zip(texts, counts, strict=True)]

    def guess(self, share: float) -> int:
        """How many turns to drop to keep about `share` of the characters."""
        sizes = [len(m.content) + 1 for m in self._messages]
        excess = (1 - share) * sum(sizes)
        for dropped, turn in enumerate(self._turns):
            if excess <= 0:
                return dropped
            excess -= sum(sizes[i] for i in turn)
        return self.most


def _turns(messages: Sequence[Message]) -> list[list[int]]:
    """The places of the messages of each turn; system messages are in none.

    A turn begins at a user message, or at a greeting before the first one.
    """
    turns: list[list[int]] = []
    for place, message in enumerate(messages):
        if message.role == "user" or (message.role == "assistant" and not turns):
            turns.append([place])
        elif message.role in ("assistant", "tool"):
            turns[-1].append(place)
    return turns


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
