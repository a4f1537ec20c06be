"""What the tests of the remote engine ask of it."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from modules.chat.messages import Message
from modules.chat.template import render
from modules.engine.conversation import TEMPLATE
from modules.engine.params import SamplingParams
from modules.engine.protocol import Finished, GenerateRequest, LoadModel
from modules.engine.remote.address import ServerAddress
from modules.engine.remote.connection import Patience
from modules.engine.remote.engine import RemoteEngine

__all__ = ["QUESTION", "Written", "chat", "connected", "plain", "written"]

QUESTION = (Message("user", "What is the capital of France?"),)


@dataclass
class Written:
    """A whole reply."""

    text: str
    end: Finished
    chunks: int


def plain(prompt: str, **params: Any) -> GenerateRequest:
    """A text to go on with, greedily unless told otherwise."""
    return GenerateRequest(uuid.uuid4().hex, prompt, _params(params))


def chat(
    messages: Sequence[Message] = QUESTION, continued: bool = False, **params: Any
) -> GenerateRequest:
    """A chat whose prompt the server makes."""
    prompt = render(TEMPLATE, messages, special_tokens={}, continue_final=continued)
    return GenerateRequest(uuid.uuid4().hex, prompt, _params(params), special_tokens=False)


def _params(params: dict[str, Any]) -> SamplingParams:
    return SamplingParams.neutral(**{"temperature": 0.0, "max_new_tokens": 24} | params)


async def written(engine: RemoteEngine, request: GenerateRequest) -> Written:
    """The reply, whole."""
    text, chunks = "", 0
    async with aclosing(engine.generate(request)) as events:
        async for event in events:
            if isinstance(event, Finished):
                return Written(text, event, chunks)
            text, chunks = text + event.text, chunks + 1
    raise AssertionError("the reply had no end")


@contextlib.asynccontextmanager
async def connected(
    url: str, key: str = "", context: int = 0, patience: Patience | None = None
) -> AsyncIterator[RemoteEngine]:
    """An engine that writes with the first model of a server."""
    engine = RemoteEngine(ServerAddress.of(url, key), context, patience)
    try:
        await engine.load(LoadModel(""))
        yield engine
    finally:
        await engine.close()
