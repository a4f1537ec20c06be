"""`Writer`: replies of one model of a server, each in a task that reads its stream."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from modules.engine.protocol import Finished, GenerateRequest, ModelInfo, TokenChunk
from modules.engine.remote.connection import Connection
from modules.engine.remote.failures import broken_off, strange
from modules.engine.remote.kinds import LANTERN, ServerKind
from modules.engine.remote.replies import ReplyReader
from modules.engine.remote.requests import call_of, conversation_in
from modules.engine.remote.tokens import Tokenizer
from modules.errors import EngineError, LanternError, PromptTooLongError

__all__ = ["RunningReply", "Writer"]

_MARGIN = 16
"""Tokens that a template of the server's may have beyond ours."""
_LATE = 4
"""Events after a stop string, in which the server ends by itself and tells its numbers."""


class RunningReply:
    """One reply that comes in; its stream is read as fast as it comes, whoever waits."""

    def __init__(self, request: GenerateRequest, chunks: AsyncGenerator[TokenChunk, None],
                 reader: ReplyReader) -> None:  # fmt: skip
        self._reader = reader
        self._news: asyncio.Queue[TokenChunk | Finished | LanternError] = asyncio.Queue()
        self._task = asyncio.create_task(self._read(chunks), name=f"remote-{request.id}")

    async def events(self) -> AsyncGenerator[TokenChunk | Finished, None]:
        """What comes, up to a `Finished`. Raises what went wrong."""
        while True:
            event = await self._news.get()
            if isinstance(event, LanternError):
                raise event
            yield event
            if isinstance(event, Finished):
                return

    def cancel(self) -> None:
        """End it here and at the server, which sees its connection close."""
        self._task.cancel()
        self._news.put_nowait(self._reader.finished(cancelled=True))

    def fail(self, error: LanternError) -> None:
        """End it with an error."""
        self._task.cancel()
        self._news.put_nowait(error)

    async def close(self) -> None:
        """Return when the connection is closed."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _read(self, chunks: AsyncGenerator[TokenChunk, None]) -> None:
        # Whatever happens, there is an end for who waits.
        end: Finished | LanternError = EngineError("The reply was lost.", "Regenerate it.")
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    self._news.put_nowait(chunk)
            end = self._reader.finished()
        except LanternError as error:
            end = error
        finally:
            self._news.put_nowait(end)


@dataclass(frozen=True, slots=True)
class Writer:
    """Has the model `info` of a server write."""

    connection: Connection
    kind: ServerKind
    tokenizer: Tokenizer
    info: ModelInfo

    def begin(self, request: GenerateRequest, model: str) -> RunningReply:
        """Ask for a reply from what the server calls `model`."""
        reader = ReplyReader(request, chat=conversation_in(request) is not None)
        return RunningReply(request, self._chunks(request, model, reader), reader)

    async def _chunks(
        self, request: GenerateRequest, model: str, reader: ReplyReader
    ) -> AsyncGenerator[TokenChunk, None]:
        call = call_of(self.kind, model, await self._within(request))
        stream = self.connection.stream(self.connection.address.base + call.path, call.body)
        late = 0
        async with aclosing(stream):
            async for event in stream:
                try:
                    chunk = reader.read(event)
                except (AttributeError, TypeError, ValueError) as error:
                    raise strange(self.connection.address) from error
                if chunk is not None:
                    yield chunk
                late += reader.stopped
                if late > _LATE:
                    return
        if not reader.ended:
            raise broken_off(self.connection.address)
        if (rest := reader.rest()) is not None:
            yield rest

    async def _within(self, request: GenerateRequest) -> GenerateRequest:
        """The request with a limit that the context has room for beside the prompt.

        vLLM and SGLang refuse prompts whose limit exceeds it; Lantern ends there by itself.
        Raises PromptTooLongError.
        """
        server, params = self.info.server, request.params
        context, limit = self.info.context_length, params.max_new_tokens
        # No token is shorter than a byte, so that most prompts need no counting.
        most = len(request.prompt.encode("utf-8", "replace")) + _MARGIN
        if self.kind is LANTERN or server is None or not server.tells_context:
            return request
        if most + limit <= context:
            return request
        (tokens,) = await self.tokenizer.counts([request.prompt], request.special_tokens)
        if not self.kind.counts_chats:  # under the server's own template there may be more
            tokens += _MARGIN
        if tokens >= context:
            raise PromptTooLongError(
                f"The prompt has {tokens:,} tokens, and the context holds {context:,}.",
                "Shorten it, or use a model with a longer context.",
            )
        rest = min(limit, context - tokens)
        return replace(request, params=params.replace(max_new_tokens=rest))
