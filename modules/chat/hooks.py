"""`ChatHooks`: where something from outside may take part in the life of a reply.

The chats know this protocol and nothing of extensions. Without any, `NO_HOOKS` stands in, whose
`active` is False: then nothing below is called, and a reply costs what it costs without hooks.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from modules.chat.cast import Cast
from modules.chat.messages import Message
from modules.engine.params import SamplingParams
from modules.engine.protocol import TensorHooks

__all__ = ["NO_HOOKS", "ChatHooks", "NoHooks", "Turn"]


@dataclass(frozen=True, slots=True)
class Turn:
    """What a reply is made of; hooks may give it other messages, parameters and names.

    Of a text without a chat (Default, Notebook), `is_chat` is False and there are no messages.
    `continues` says that the last message is to be gone on with.
    """

    params: SamplingParams
    messages: tuple[Message, ...] = ()
    cast: Cast = field(default_factory=Cast)
    continues: bool = False
    is_chat: bool = True


class ChatHooks(Protocol):
    """All methods belong to the event loop, and none of them raises for a fault of a hook."""

    @property
    def active(self) -> bool:
        """Whether any of the others would do anything."""
        ...

    @property
    def follows(self) -> bool:
        """Whether `shown` wants to see a reply while it grows."""
        ...

    @property
    def replies(self) -> bool:
        """Whether `reply` writes in the place of a model, which need not be there then."""
        ...

    @property
    def logprobs(self) -> int | None:
        """Alternatives that are wanted for each token of a reply; None where none are looked at."""
        ...

    def names(self) -> list[str]:
        """Who takes part, for the record of a reply."""
        ...

    async def sent(self, text: str, turn: Turn) -> tuple[str, str]:
        """Of a new message, what the model sees and what the page shows."""
        ...

    async def asked(self, text: str, turn: Turn) -> str:
        """Of a text without a chat, what the model goes on with."""
        ...

    async def begun(self, turn: Turn) -> Turn:
        """What a reply is made of, altered."""
        ...

    async def prompt(self, turn: Turn) -> str | None:
        """The whole prompt; None for the one that is made as usual."""
        ...

    async def prefix(self, string: str, turn: Turn) -> str:
        """What stands before the reply in the prompt: the speaker's name, or nothing."""
        ...

    async def lengths(self, texts: Sequence[str]) -> list[int] | None:
        """Tokens in each text; None where the engine is to count them."""
        ...

    def reply(
        self, prompt: str, turn: Turn, stop: Sequence[str]
    ) -> AsyncGenerator[str, None] | None:
        """A reply in the place of the model's, each item all of it so far; None for the model's.

        Raises ExtensionError where the hook fails.
        """
        ...

    async def shown(self, text: str, turn: Turn, *, is_final: bool) -> str:
        """What the page shows of a reply. Before its end, of those alone that follow it."""
        ...

    def tensor(self, turn: Turn) -> TensorHooks | None:
        """The hooks that run in the engine worker; None where there are none."""
        ...


class NoHooks:
    """Nobody takes part."""

    active = False
    follows = False
    replies = False
    logprobs = None

    def names(self) -> list[str]:
        """Nobody."""
        return []

    async def sent(self, text: str, turn: Turn) -> tuple[str, str]:
        """The text, as it is."""
        return text, text

    async def asked(self, text: str, turn: Turn) -> str:
        """The text, as it is."""
        return text

    async def begun(self, turn: Turn) -> Turn:
        """The turn, as it is."""
        return turn

    async def prompt(self, turn: Turn) -> str | None:
        """As usual."""
        return None

    async def prefix(self, string: str, turn: Turn) -> str:
        """The prefix, as it is."""
        return string

    async def lengths(self, texts: Sequence[str]) -> list[int] | None:
        """The engine counts."""
        return None

    def reply(
        self, prompt: str, turn: Turn, stop: Sequence[str]
    ) -> AsyncGenerator[str, None] | None:
        """The model's."""
        return None

    async def shown(self, text: str, turn: Turn, *, is_final: bool) -> str:
        """The text, as it is."""
        return text

    def tensor(self, turn: Turn) -> TensorHooks | None:
        """None."""
        return None


NO_HOOKS: ChatHooks = NoHooks()
