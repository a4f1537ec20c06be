"""`RemoteEngine`: the `EngineClient` whose model a server elsewhere has.

To load a model is to choose one of those that the server serves. All state belongs to the
event loop's thread. A server that goes away leaves the engine crashed; it looks for the server
from time to time, and is ready again when that answers.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace

from modules.engine.client import Catalog, EngineState, ServedModel
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
    ServerInfo,
    TokenChunk,
)
from modules.engine.remote.address import ServerAddress
from modules.engine.remote.connection import Connection, Patience
from modules.engine.remote.looks import embedded, next_tokens
from modules.engine.remote.served import ServedCatalog
from modules.engine.remote.tokens import Tokenizer
from modules.engine.remote.writing import RunningReply, Writer
from modules.engine.swap import load_or_go_back, remembered
from modules.engine.tally import Tally
from modules.errors import (
    AdapterError,
    EngineError,
    LanternError,
    LoadFailedError,
    NoModelError,
    WorkerDiedError,
)
from modules.signals import Signal

__all__ = ["ASSUMED_CONTEXT", "RemoteEngine"]

log = logging.getLogger(__name__)

ASSUMED_CONTEXT = 8192
"""Tokens, where a server tells no context and --ctx-size none either."""

_LOOK_AGAIN_S = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Between looks for a server that went away; the last one again and again."""


class RemoteEngine:
    """One model of the server at `address`; `context` is what --ctx-size says of it."""

    def __init__(
        self, address: ServerAddress, context: int = 0, patience: Patience | None = None
    ) -> None:
        self.state = EngineState()
        self.changed = Signal()
        self.tally = Tally()
        self._connection = Connection(address, patience)
        self._catalog = ServedCatalog(self._connection)
        self._context = context
        self._lock = asyncio.Lock()
        self._writer: Writer | None = None
        self._running: dict[str, RunningReply] = {}
        self._looking: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """No process of this machine."""
        return None

    @property
    def catalog(self) -> Catalog | None:
        """What the server has."""
        return self._catalog

    # -- loading ------------------------------------------------------------------------

    def prepare(self) -> None:
        """There is nothing to get ready."""

    async def load(self, command: LoadModel) -> ModelInfo:
        """Write with the model that the server calls `command.path`; without one, its first.

        Raises LoadFailedError, after the present model was chosen again.
        """
        async with self._lock:
            before = self.state
            try:
                return await load_or_go_back(self, self._load_alone, command)
            except asyncio.CancelledError:
                self._become(remembered(before))
                raise

    async def unload(self) -> None:
        """Let go of the model; running replies raise EngineError."""
        self._stop_looking()
        self._let_go(EngineError("The model was unloaded.", "Load one, and send it again."))
        self._become(EngineState())

    async def close(self) -> None:
        """End everything, and close what is open."""
        await self.unload()
        await self._connection.close()

    async def _load_alone(self, command: LoadModel) -> ModelInfo:
        self._stop_looking()
        self._let_go(EngineError("Another model was loaded.", "Send the message again."))
        stage = f"Asking {self._connection.address.host}"
        self._become(EngineState("loading", command.path, stage, command=command))
        try:
            return await self._connect(command)
        except LanternError as error:
            failure = LoadFailedError(error.message, error.remedy)
            self._crash(failure, may_come_back=isinstance(error, WorkerDiedError))
            raise failure from error

    async def _connect(self, command: LoadModel) -> ModelInfo:
        """Find the model, and become ready. Raises EngineError and LoadFailedError."""
        served = self._find(await self._catalog.models(), command.path)
        kind, address = self._catalog.kind, self._connection.address
        tokenizer = Tokenizer(self._connection, kind, served.name)
        await tokenizer.try_out()
        context = served.context_length or self._context or ASSUMED_CONTEXT
        told = bool(served.context_length or self._context)
        info = ModelInfo(
            name=served.name,
            path=served.name,
            architecture=kind.name,
            parameters=0,
            dtype="",
            quantization="none",
            device=f"remote: {address.host}",
            context_length=min(context, self._context or context),
            memory=0,
            chat_template=None,
            unsupported=kind.unsupported,
            server=ServerInfo(kind.name, address.host, tokenizer.exact, told),
        )
        self._writer = Writer(self._connection, kind, tokenizer, info)
        command = replace(command, path=served.name)
        self._become(EngineState("ready", served.name, info=info, command=command))
        return info

    def _find(self, models: tuple[ServedModel, ...], name: str) -> ServedModel:
        host = self._connection.address.host
        bases = [model for model in models if not model.parent]
        if not bases:
            raise LoadFailedError(f"The server at {host} serves no model.", "Load one there.")
        for model in bases:
            if name in ("", model.name):
                return model
        known = ", ".join(model.name for model in bases[:5])
        raise LoadFailedError(
            f"The server at {host} does not serve {name[:100]}.", f"It serves: {known}."
        )

    # -- what a server that goes away leaves ------------------------------------------------

    async def _suspect(self, error: LanternError) -> None:
        """See whether the server is still there after a failure of the connection."""
        if self.state.phase != "ready":
            return
        try:
            await self._catalog.models()
        except WorkerDiedError:
            if self.state.phase == "ready":
                self._crash(error, may_come_back=True)
        except LanternError:
            return

    def _crash(self, error: LanternError, *, may_come_back: bool) -> None:
        self._writer = None
        self._become(
            replace(self.state, phase="crashed", stage="", fraction=0.0, info=None, error=error)
        )
        self._let_go(error)
        if may_come_back:
            self._looking = asyncio.create_task(self._look_again(), name="look-for-server")

    async def _look_again(self) -> None:
        """Be ready again once the server answers, with the LoRAs that were applied."""
        turn = 0
        while self.state.phase == "crashed":
            await asyncio.sleep(_LOOK_AGAIN_S[min(turn, len(_LOOK_AGAIN_S) - 1)])
            turn += 1
            before = self.state
            try:
                await self._connect(before.command or LoadModel(before.path))
            except LanternError as error:
                if str(error) != str(before.error):
                    self._become(replace(before, error=error))
                continue
            log.info("the server at %s is back", self._connection.address.host)
            self._become(replace(self.state, adapters=before.adapters))

    def _stop_looking(self) -> None:
        task, self._looking = self._looking, None
        if task is not None:
            task.cancel()

    def _let_go(self, error: LanternError) -> None:
        for reply in self._running.values():
            reply.fail(type(error)(error.message, error.remedy))

    def _become(self, state: EngineState) -> None:
        self.state = state
        self.changed.notify()

    def _ready(self) -> Writer:
        if self._writer is None or self.state.phase != "ready":
            raise NoModelError
        return self._writer

    # -- LoRAs --------------------------------------------------------------------------------

    async def load_adapter(self, name: str, path: str) -> AdapterInfo:
        """Have new replies written with the LoRA that the server calls `name`.

        Those that were on are off then, for a server writes with one at a time. Raises
        AdapterError and EngineError.
        """
        self._ready()
        served = {model.name: model for model in await self._catalog.models() if model.parent}
        host, kind = self._connection.address.host, self._catalog.kind
        if name not in served or not kind.adapter:
            raise AdapterError(
                f"The server at {host} serves no LoRA {name}.",
                "Start it with this LoRA; docs/scale-out.md has the commands.",
            )
        note = f"{kind.name} writes with it; what it changes is not measured."
        info = AdapterInfo(name, served[name].path or name, "LoRA", 0, 0.0, (), 0, 0.0, note)
        others = {one.info.name: 0.0 for one in self.state.adapters if one.info.name != name}
        self._become(self.state.with_adapter(info).with_weights(others))
        return info

    async def unload_adapter(self, name: str) -> None:
        """Write without a LoRA from the next reply on."""
        self._ready()
        self._become(self.state.without_adapter(name))

    def weigh_adapters(self, weights: Mapping[str, float]) -> None:
        """Turn LoRAs on (1) and off (0). Raises AdapterError and InvalidInputError."""
        self._ready()
        state = self.state.with_weights(weights)
        for one in state.adapters:
            _require_whole(one.weight)
        self._become(state)

    def _model_of(self, request: GenerateRequest) -> str:
        """What the server calls the model with the LoRA of the request. Raises AdapterError."""
        mix, name = self.state.mix_of(request), self._ready().info.name
        if len(mix) > 1:
            raise AdapterError(
                f"A server writes with one LoRA at a time, and {len(mix)} are on.",
                "Set the weight of all but one to 0.",
            )
        for adapter, weight in mix:
            _require_whole(weight)
            return self._catalog.kind.adapter.format(base=name, adapter=adapter)
        return name

    # -- writing ------------------------------------------------------------------------------

    async def generate(
        self, request: GenerateRequest
    ) -> AsyncGenerator[TokenChunk | Finished, None]:
        """The reply, chunk by chunk, then `Finished`; closing early closes the connection.

        Raises NoModelError, PromptTooLongError, WorkerDiedError, EngineError, AdapterError and
        InvalidInputError.
        """
        writer, model = self._ready(), self._model_of(request)
        request = with_seed(request)
        log.info("request %s, %s:\n%s", request.id, request.params, request.prompt)
        if request.id in self._running:
            raise EngineError("A request with this id is running already.", "Use a new id.")
        reply = self._running[request.id] = writer.begin(request, model)
        self.tally.begin(request.id)
        failed = False
        try:
            async for event in reply.events():
                self.tally.note(event)
                yield event
        except LanternError as error:
            failed = True
            if isinstance(error, WorkerDiedError):
                await self._suspect(error)
            raise
        finally:
            self.tally.end(request.id, failed=failed)
            del self._running[request.id]
            await reply.close()

    async def cancel(self, request_id: str) -> None:
        """End one request; its iterator ends with `Finished`."""
        if request_id in self._running:
            self._running[request_id].cancel()

    # -- looking ------------------------------------------------------------------------------

    async def count_tokens(self, texts: list[str], special_tokens: bool = False) -> list[int]:
        """Tokens in each text, or estimates: see `ServerInfo`. Raises EngineError."""
        return await self._ready().tokenizer.counts(texts, special_tokens)

    async def encode(self, text: str, special_tokens: bool = False) -> Encoded:
        """The tokens of a text. Raises EngineError."""
        return await self._ready().tokenizer.encode(text, special_tokens)

    async def decode(self, ids: list[int]) -> str:
        """The text of tokens. Raises EngineError and InvalidInputError."""
        return await self._ready().tokenizer.decode(ids)

    async def embed(self, text: str) -> Embedded:
        """A vector of the meaning of a text, where the server makes some. Raises EngineError."""
        return await embedded(self._connection, self._ready().info.name, text)

    async def next_tokens(self, command: NextTokens) -> NextTokensFound:
        """What the first token may be, as far as the server tells. Raises EngineError."""
        model = self._model_of(command.request)
        kind = self._catalog.kind
        command = replace(command, request=with_seed(command.request))
        return await next_tokens(self._connection, kind, model, command)


def with_seed(request: GenerateRequest) -> GenerateRequest:
    """The request with the seed that it is drawn by, so that the reply can be had again."""
    if request.params.seed >= 0:
        return request
    seed = random.randrange(2**31)  # noqa: S311 - no secret
    return replace(request, params=request.params.replace(seed=seed))


def _require_whole(weight: float) -> None:
    if weight not in (0.0, 1.0):
        raise AdapterError(
            "A server writes with a LoRA as it was trained, or without it.", "Use weight 1 or 0."
        )
