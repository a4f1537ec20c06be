"""What scripts written for text-generation-webui import from its `modules`, in one place.

    from modules.extensions.webui import chat, decode, encode, generate_reply, shared

in the place of `from modules import chat, shared` and `from modules.text_generation import …`.
All of it works inside hooks and nowhere else: a hook runs in a thread that knows its host.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from modules.engine.client import EngineClient
from modules.engine.params import SamplingParams, knobs
from modules.engine.protocol import Finished, GenerateRequest
from modules.errors import ExtensionError
from modules.extensions.states import params_from
from modules.scripts import HOST, ScriptHost
from modules.settings import Settings

__all__ = [
    "HookHost",
    "chat",
    "decode",
    "encode",
    "generate_reply",
    "shared",
]

_ANSWER_S = 600.0

T = TypeVar("T")


@dataclass(slots=True)
class HookHost:
    """What a hook may reach: the engine, its event loop once it runs, and the settings."""

    engine: EngineClient
    settings: Settings
    loop: asyncio.AbstractEventLoop | None = field(default=None)

    @property
    def model_name(self) -> str:
        """The loaded model's name; None in letters where there is none, as it is there."""
        info = self.engine.state.info
        return info.name if info else "None"

    def encode(self, text: str, special_tokens: bool) -> list[list[int]]:
        """The tokens [1, n] of a text. Raises EngineError."""
        return [list(self.wait(self.engine.encode(text, special_tokens)).ids)]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        """The text of tokens, special ones included. Raises EngineError."""
        return self.wait(self.engine.decode(list(ids)))

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine of the event loop, for a thread. Raises what it raises."""
        if self.loop is None:
            work.close()
            raise ExtensionError("Lantern is still starting.", "Ask in a later hook.")
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(_ANSWER_S)


def _host() -> ScriptHost:
    host = HOST.get()
    if host is None:
        raise ExtensionError(
            "modules.extensions.webui works inside hooks alone.",
            "Call it from a hook, in the hook's own thread.",
        )
    return host


def _page_host() -> HookHost:
    host = _host()
    if not isinstance(host, HookHost):
        raise ExtensionError("This is not there in the engine worker.", "Ask in another hook.")
    return host


class _Shared:
    """The part of text-generation-webui's `modules.shared` that has a meaning here."""

    @property
    def model_name(self) -> str:
        """The loaded model's name, or None in letters, as it is there."""
        return _host().model_name

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer, in hooks with tensors; elsewhere there is `encode`."""
        tokenizer = getattr(_host(), "tokenizer", None)
        if tokenizer is None:
            raise ExtensionError(
                "shared.tokenizer is there in the hooks with tensors alone.", "Use encode()."
            )
        return tokenizer

    @property
    def args(self) -> Settings:
        """The settings of this launch, under the names of the flags."""
        return _page_host().settings

    @property
    def settings(self) -> dict[str, Any]:
        """The neutral parameters by their names."""
        return {name: knob.neutral for name, knob in knobs().items()}

    def is_chat(self) -> bool:
        """There is but one interface, and it chats."""
        return True

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"shared.{name} does not exist here: docs/extensions.md says what does"
        )


class _Chat:
    """The part of text-generation-webui's `modules.chat` that has a meaning here."""

    @staticmethod
    def generate_chat_prompt(user_input: str, state: Mapping[str, Any], **kwargs: Any) -> str:
        """A transcript in the manner of the mode `chat`."""
        history = kwargs.get("history") or state.get("history") or {"internal": []}
        you, name = state.get("name1") or "You", state.get("name2") or "Assistant"
        lines = [text for text in (str(state.get("context") or "").strip(),) if text]
        for user, reply in history["internal"]:
            lines += [f"{you}: {user}"] if user else []
            lines += [f"{name}: {reply}"] if reply else []
        lines.append(f"{you}: {user_input}")
        if kwargs.get("_continue") or kwargs.get("impersonate"):
            return "\n".join(lines)
        return "\n".join([*lines, f"{name}:"])


shared = _Shared()
chat = _Chat()


def encode(prompt: str, add_special_tokens: bool = True, **_: Any) -> Any:
    """The tokens of a text, [1, n]: a tensor in hooks with tensors, and elsewhere a list."""
    return _host().encode(str(prompt), add_special_tokens)


def decode(output_ids: Any, skip_special_tokens: bool = True) -> str:
    """The text of tokens [n]."""
    return _host().decode([int(i) for i in output_ids], skip_special_tokens)


def generate_reply(
    question: str,
    state: Mapping[str, Any],
    stopping_strings: Sequence[str] | None = None,
    **_: Any,
) -> Iterator[str]:
    """Have the model go on with a text; yields what it wrote so far. No hook is called for it."""
    host = _page_host()
    params = params_from(state, SamplingParams())
    request = GenerateRequest(
        uuid.uuid4().hex, question, params, stop=tuple(stopping_strings or ())
    )
    text = ""

    async def begin() -> Any:
        return host.engine.generate(request)

    async def following(events: Any) -> Any:
        return await anext(events, None)

    async def end(events: Any) -> None:
        async with aclosing(events):
            return

    events = host.wait(begin())
    try:
        while (event := host.wait(following(events))) is not None:
            if isinstance(event, Finished):
                return
            text += event.text
            yield text
    finally:
        host.wait(end(events))
