"""`Impersonation`: the user's next message, as the model would write it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from modules.chat.cast import Cast
from modules.chat.messages import Message
from modules.chat.prompt import build_chat_prompt, loaded_model, render_chat
from modules.chat.store import Chat
from modules.chat.template_choice import SERVERS_OWN, TemplateChoices
from modules.engine.client import EngineClient
from modules.engine.params import SamplingParams
from modules.engine.protocol import Finished, GenerateRequest

__all__ = ["Impersonation"]

_MARK = "LanternSpeaksHere"


class Impersonation:
    """A request for more of what the user says."""

    def __init__(self, engine: EngineClient, request: GenerateRequest) -> None:
        self._engine = engine
        self._request = request

    @classmethod
    async def of(
        cls,
        engine: EngineClient,
        chat: Chat,
        cast: Cast,
        messages: Sequence[Message],
        params: SamplingParams,
        templates: TemplateChoices,
    ) -> Impersonation:
        """The last of `messages`, which is the user's, gone on with.

        Raises NoModelError, PromptTooLongError, TemplateError, SettingsError, and EngineError.
        """
        prompt = await build_chat_prompt(
            engine, messages, params, templates, continue_final=True, cast=cast
        )
        stop = prompt.stop
        if cast.mode == "instruct":
            stop = (*stop, *await _end_of_turn(engine, templates))
        request = GenerateRequest(
            uuid.uuid4().hex,
            prompt.text,
            params,
            special_tokens=prompt.special_tokens,
            adapters=chat.adapters,
            stop=stop,
        )
        return cls(engine, request)

    async def pieces(self) -> AsyncGenerator[str, None]:
        """What the model adds to the turn, as it comes. Ending early ends the request.

        Raises EngineError.
        """
        async with aclosing(self._engine.generate(self._request)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    return
                yield event.text


async def _end_of_turn(engine: EngineClient, templates: TemplateChoices) -> tuple[str, ...]:
    """What the chat template puts after a user's turn, where the model may not stop by itself."""
    info = loaded_model(engine)
    template = await asyncio.to_thread(templates.template_of, info)
    if template.key == SERVERS_OWN:
        return ()
    text = await render_chat(info, template, [Message("user", _MARK)])
    end = text.partition(_MARK)[2].strip().partition("\n")[0]
    return (end,) if end else ()
