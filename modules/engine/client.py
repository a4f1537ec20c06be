"""`EngineClient`: the only way from the rest of the program to a model.

Implementations: `LocalEngine` (a worker process on this machine), `RemoteEngine` (a server
elsewhere that speaks OpenAI's API) and `FakeEngine` (a scripted model without weights, for tests
and for work on the page).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from modules.engine.mix import Mix, checked_mix, checked_weight, require_applied
from modules.engine.protocol import (
    AdapterInfo,
    Embedded,
    Encoded,
    Finished,
    GenerateRequest,
    LoadModel,
    ModelInfo,
    NextTokens,
    NextTokensFound,
    TokenChunk,
)
from modules.engine.tally import Tally
from modules.errors import LanternError
from modules.signals import Signal

__all__ = ["AppliedAdapter", "Catalog", "EngineClient", "EngineState", "ServedModel"]


@dataclass(frozen=True, slots=True)
class AppliedAdapter:
    """A LoRA over the model, and its weight in requests that choose none; 0 is off."""

    info: AdapterInfo
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class EngineState:
    """What the engine is doing. `error` says why the last load or worker ended, if it did.

    `path` is the checkpoint that is loaded, loading, or was loaded when a worker died or
    another load was cancelled: what "load again" would load, by `command`. `adapters` lie
    over the model that is ready, or did over that one.
    """

    phase: Literal["empty", "loading", "ready", "crashed"] = "empty"
    path: str = ""
    stage: str = ""
    fraction: float = 0.0
    info: ModelInfo | None = None
    error: LanternError | None = None
    adapters: tuple[AppliedAdapter, ...] = ()
    command: LoadModel | None = None

    def mix_of(self, request: GenerateRequest) -> Mix:
        """The LoRAs of a request: those that it names, or all that are applied.

        Raises AdapterError where one is not applied, and InvalidInputError for what is out
        of bounds.
        """
        weights = {adapter.info.name: adapter.weight for adapter in self.adapters}
        mix = checked_mix(weights.items() if request.adapters is None else request.adapters)
        require_applied(mix, weights)
        return mix

    def with_adapter(self, info: AdapterInfo) -> EngineState:
        """The state once a LoRA is applied, with weight 1."""
        others = self.without_adapter(info.name).adapters
        return replace(self, adapters=(*others, AppliedAdapter(info)))

    def without_adapter(self, name: str) -> EngineState:
        """The state once a LoRA is removed."""
        return replace(self, adapters=tuple(a for a in self.adapters if a.info.name != name))

    def with_weights(self, weights: Mapping[str, float]) -> EngineState:
        """The state with other weights. Raises as `EngineClient.weigh_adapters` does."""
        require_applied(tuple(weights.items()), [a.info.name for a in self.adapters])
        given = {name: checked_weight(weight) for name, weight in weights.items()}
        adapters = (replace(a, weight=given.get(a.info.name, a.weight)) for a in self.adapters)
        return replace(self, adapters=tuple(adapters))


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that a server elsewhere has, or with a `parent` a LoRA over it.

    `path` is where that server has it from; `context_length` is 0 where it does not tell.
    """

    name: str
    context_length: int = 0
    parent: str = ""
    path: str = ""


class Catalog(Protocol):
    """The server elsewhere whose models an engine loads by their names."""

    @property
    def host(self) -> str:
        """Its name and port."""
        ...

    async def models(self) -> tuple[ServedModel, ...]:
        """What it serves now. Raises EngineError."""
        ...


class EngineClient(Protocol):
    """One engine that holds at most one model. All methods belong to the event loop."""

    @property
    def state(self) -> EngineState:
        """The current state; replaced, never altered."""
        ...

    @property
    def pid(self) -> int | None:
        """The process that holds the model, where there is one on this machine."""
        ...

    @property
    def catalog(self) -> Catalog | None:
        """Where models come from, and LoRAs; None for folders on this machine."""
        ...

    @property
    def tally(self) -> Tally:
        """What it has done so far."""
        ...

    @property
    def changed(self) -> Signal:
        """Raised whenever `state` is replaced."""
        ...

    async def load(self, command: LoadModel) -> ModelInfo:
        """Load a checkpoint in the place of the present one.

        Raises LoadFailedError. Where a model was ready before, it is loaded again first, as
        it was, and the error says so; otherwise the state says why. A load that is cancelled
        leaves nothing loaded, and the state remembers the model that was ready before.
        """
        ...

    def prepare(self) -> None:
        """Get ready for a load that is likely to come, so that it takes less time."""
        ...

    async def unload(self) -> None:
        """End the worker, and with it all that it held. Running requests fail."""
        ...

    async def load_adapter(self, name: str, path: str) -> AdapterInfo:
        """Lay the LoRA in the folder `path` over the model, with weight 1.

        In the place of one of the same name, whose weight it keeps. Raises AdapterError, and
        EngineError when there is no model, or it goes away meanwhile.
        """
        ...

    async def unload_adapter(self, name: str) -> None:
        """Take a LoRA off the model; replies that are written with it fail."""
        ...

    def weigh_adapters(self, weights: Mapping[str, float]) -> None:
        """Set weights in the mix of requests that choose none; the others keep theirs.

        Raises AdapterError for a name that is not applied, and InvalidInputError for a weight
        out of bounds.
        """
        ...

    def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenChunk | Finished, None]:
        """The reply, chunk by chunk; the last item is a `Finished`.

        Whoever takes it closes it (`contextlib.aclosing`); closing early cancels the request.
        Raises EngineError: NoModelError without a model, WorkerDiedError when the worker
        ends in mid-reply, PromptTooLongError when the prompt leaves no room for a token.
        Raises AdapterError when the request wants a LoRA that is not applied.
        """
        ...

    async def cancel(self, request_id: str) -> None:
        """End one request; its iterator ends with `Finished(reason="cancelled")`."""
        ...

    async def count_tokens(self, texts: list[str], special_tokens: bool = False) -> list[int]:
        """Tokens in each text. Raises EngineError."""
        ...

    async def encode(self, text: str, special_tokens: bool = False) -> Encoded:
        """The tokens of a text. Raises EngineError."""
        ...

    async def decode(self, ids: list[int]) -> str:
        """The text of tokens. Raises EngineError, and InvalidInputError for an unknown one."""
        ...

    async def embed(self, text: str) -> Embedded:
        """A vector of the meaning of a text, under the LoRAs that are applied.

        Raises PromptTooLongError where it exceeds the context, and EngineError.
        """
        ...

    async def next_tokens(self, command: NextTokens) -> NextTokensFound:
        """What the first token of a reply may be; cancelling ends the question.

        Raises as `generate` does, and EngineError where a newer question took its place.
        """
        ...

    async def close(self) -> None:
        """End everything; the client is not used afterwards."""
        ...
