"""`ExtensionHooks`: what extensions do to the replies of a chat, to Default and to Notebook."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from modules.chat.hooks import ChatHooks, Turn
from modules.engine.protocol import GenerateRequest, TensorHooks, WorkerExtension
from modules.errors import ExtensionError
from modules.extensions.histories import messages_from, pairs_of
from modules.extensions.hooks import IN_WORKER
from modules.extensions.manager import ExtensionManager
from modules.extensions.script import Script
from modules.extensions.states import plain_state, state_of, turn_from

__all__ = ["IN_CHAT", "ExtensionHooks"]

IN_CHAT = (
    "history_modifier",
    "state_modifier",
    "chat_input_modifier",
    "input_modifier",
    "output_modifier",
    "bot_prefix_modifier",
    "custom_generate_chat_prompt",
    "custom_generate_reply",
    "custom_tokenized_length",
)
"""The hooks that take part in replies, in this process."""

_ALTERNATIVES = 5


class ExtensionHooks(ChatHooks):
    """The extensions of a manager as the chats and the engine know them."""

    def __init__(self, manager: ExtensionManager) -> None:
        self._manager = manager

    # -- the chats ------------------------------------------------------------------------

    @property
    def active(self) -> bool:
        """Whether an extension has a hook for replies."""
        declared = self._manager.declared
        return bool(declared) and any(hook in declared for hook in (*IN_CHAT, *IN_WORKER))

    @property
    def follows(self) -> bool:
        """Whether an output_modifier takes `is_final`."""
        return bool(self._followers())

    @property
    def replies(self) -> bool:
        """Whether there is a custom_generate_reply."""
        return "custom_generate_reply" in self._manager.declared

    @property
    def logprobs(self) -> int | None:
        """As many as a token_colors is shown, where there is one."""
        return _ALTERNATIVES if "token_colors" in self._manager.declared else None

    def names(self) -> list[str]:
        """The extensions that are on, in their order."""
        return self._manager.names_on()

    async def sent(self, text: str, turn: Turn) -> tuple[str, str]:
        """By chat_input_modifier, then by input_modifier for what the model sees."""
        state = state_of(turn)
        text, visible = await self._manager.modified(
            "chat_input_modifier", (text, text), lambda both: (*both, state), _two_texts
        )
        text = await self._manager.modified(
            "input_modifier", text, lambda string: (string, state, True)
        )
        return text, visible

    async def asked(self, text: str, turn: Turn) -> str:
        """By input_modifier, which gets the whole prompt."""
        state = state_of(turn)
        asked: str = await self._manager.modified(
            "input_modifier", text, lambda string: (string, state, False)
        )
        return asked

    async def begun(self, turn: Turn) -> Turn:
        """By history_modifier and state_modifier."""
        if "history_modifier" in self._manager.declared:
            turn = await self._with_history(turn)
        altered: Turn = await self._manager.modified(
            "state_modifier",
            turn,
            lambda one: (state_of(one),),
            lambda state: turn_from(state, turn),
        )
        return altered

    async def prompt(self, turn: Turn) -> str | None:
        """By the first custom_generate_chat_prompt."""
        script = self._first("custom_generate_chat_prompt")
        if script is None:
            return None
        last = turn.messages[-1] if turn.messages else None
        text = last.content if last is not None and last.role == "user" else ""
        state = state_of(turn)
        more = {"history": state["history"], "impersonate": False, "_continue": turn.continues}
        try:
            written: str | None = await self._manager.call(
                script, "custom_generate_chat_prompt", text, state, more
            )
        except ExtensionError:
            return None
        return written

    async def prefix(self, string: str, turn: Turn) -> str:
        """By bot_prefix_modifier."""
        if "bot_prefix_modifier" not in self._manager.declared:
            return string
        state = state_of(turn)
        prefix: str = await self._manager.modified(
            "bot_prefix_modifier", string, lambda text: (text, state)
        )
        return prefix

    async def lengths(self, texts: Sequence[str]) -> list[int] | None:
        """By the first custom_tokenized_length."""
        script = self._first("custom_tokenized_length")
        if script is None:
            return None
        try:
            lengths = [
                await self._manager.call(script, "custom_tokenized_length", text) for text in texts
            ]
        except ExtensionError:
            return None
        return None if None in lengths else [max(0, length) for length in lengths]

    def reply(
        self, prompt: str, turn: Turn, stop: Sequence[str]
    ) -> AsyncGenerator[str, None] | None:
        """By the first custom_generate_reply."""
        script = self._first("custom_generate_reply")
        return None if script is None else self._reply(script, prompt, turn, stop)

    async def shown(self, text: str, turn: Turn, *, is_final: bool) -> str:
        """By output_modifier; before the end, by those that take `is_final`."""
        state = state_of(turn) if is_final else plain_state(turn)
        shown: str = await self._manager.modified(
            "output_modifier",
            text,
            lambda string: (string, state, turn.is_chat, is_final),
            scripts=None if is_final else self._followers(),
        )
        return shown

    def tensor(self, turn: Turn) -> TensorHooks | None:
        """The extensions with tensor hooks, and the state for them."""
        return self._tensor(plain_state(turn)) if self._manager.has_tensor_hooks else None

    # -- the engine -----------------------------------------------------------------------

    def hooks_of(self, request: GenerateRequest) -> TensorHooks | None:
        """The hooks of a request that came without: from the API, say."""
        if not self._manager.has_tensor_hooks:
            return None
        return self._tensor(plain_state(Turn(request.params, is_chat=False)))

    def failed(self, name: str, hook: str, error: str, version: int) -> None:
        """Switch off an extension whose hook failed in the engine worker."""
        self._manager.fail(name, hook, error, version)

    # -- inside ---------------------------------------------------------------------------

    def _tensor(self, state: dict[str, Any]) -> TensorHooks:
        deadlines = self._manager.deadlines
        extensions = tuple(
            WorkerExtension(found.name, str(found.path), found.tensor_hooks, params, version)
            for found, params, version in self._manager.in_worker()
        )
        return TensorHooks(
            extensions, state, deadlines.hook_s, deadlines.setup_s, deadlines.grace_s
        )

    async def _with_history(self, turn: Turn) -> Turn:
        """The turn with other messages before the one that is to be answered."""
        last = turn.messages[-1] if turn.messages else None
        rest = (last,) if last is not None and last.role == "user" and not turn.continues else ()
        earlier = turn.messages[:-1] if rest else turn.messages
        messages = await self._manager.modified(
            "history_modifier",
            earlier,
            lambda some: (pairs_of(some),),
            lambda history: messages_from(history, earlier),
        )
        return dataclasses.replace(turn, messages=(*messages, *rest))

    async def _reply(
        self, script: Script, prompt: str, turn: Turn, stop: Sequence[str]
    ) -> AsyncGenerator[str, None]:
        values = (prompt, prompt, turn.params.seed, state_of(turn), list(stop), turn.is_chat)
        try:
            async with aclosing(
                self._manager.pieces(script, "custom_generate_reply", *values)
            ) as texts:
                async for text in texts:
                    yield text
        except ExtensionError as error:
            raise ExtensionError(error.message, "It is off now: regenerate the reply.") from error

    def _first(self, hook: str) -> Script | None:
        if hook not in self._manager.declared:
            return None
        return next(iter(self._manager.declaring(hook)), None)

    def _followers(self) -> list[Script]:
        if "output_modifier" not in self._manager.declared:
            return []
        scripts = self._manager.declaring("output_modifier")
        return [script for script in scripts if script.takes("output_modifier", "is_final")]


def _two_texts(value: Any) -> tuple[str, str]:
    if len(value) != 2 or not all(isinstance(text, str) for text in value):
        raise ValueError("it is a pair of texts")
    return value[0], value[1]
