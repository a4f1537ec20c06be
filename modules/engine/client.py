"""`EngineClient`: the only way from the rest of the program to a model.

Implementations: `LocalEngine` (a worker process on this machine) and `FakeEngine`
(a scripted model without weights, for tests and for work on the page).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal, Protocol

from modules.engine.protocol import Finished, GenerateRequest, LoadModel, ModelInfo, TokenChunk
from modules.errors import LanternError
from modules.signals import Signal

__all__ = ["EngineClient", "EngineState"]


@dataclass(frozen=True, slots=True)
class EngineState:
    """What the engine is doing. `error` says why the last load or worker ended, if it did.

    `path` is the checkpoint that is loaded, loading, or was loaded when a worker died:
    what "load again" would load. `memory` is what the worker holds, in bytes.
    """

    phase: Literal["empty", "loading", "ready", "crashed"] = "empty"
    path: str = ""
    stage: str = ""
    fraction: float = 0.0
    info: ModelInfo | None = None
    error: LanternError | None = None


class EngineClient(Protocol):
    """One engine that holds at most one model. All methods belong to the event loop."""

    @property
    def state(self) -> EngineState:
        """The current state; replaced, never altered."""
        ...

    @property
    def changed(self) -> Signal:
        """Raised whenever `state` is replaced."""
        ...

    async def load(self, command: LoadModel) -> ModelInfo:
        """Load a checkpoint in the place of the present one.

        Raises LoadFailedError; the state then says why.
        """
        ...

    async def unload(self) -> None:
        """End the worker, and with it all that it held. Running requests fail."""
        ...

    def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenChunk | Finished, None]:
        """The reply, chunk by chunk; the last item is a `Finished`.

        Whoever takes it closes it (`contextlib.aclosing`); closing early cancels the request.
        Raises EngineError: NoModelError without a model, WorkerDiedError when the worker
        ends in mid-reply, PromptTooLongError when the prompt leaves no room for a token.
        """
        ...

    async def cancel(self, request_id: str) -> None:
        """End one request; its iterator ends with `Finished(reason="cancelled")`."""
        ...

    async def count_tokens(self, texts: list[str], special_tokens: bool = False) -> list[int]:
        """Tokens in each text. Raises EngineError."""
        ...

    async def close(self) -> None:
        """End everything; the client is not used afterwards."""
        ...
