"""`LocalEngine`: the `EngineClient` whose model lives in a worker process on this machine.

All state belongs to the event loop's thread, and nothing here waits in that thread:
`WorkerProcess` does the waiting.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from modules.engine.client import EngineState
from modules.engine.hook_watch import HookSource, HookWatch
from modules.engine.protocol import (
    AdapterInfo,
    AdapterLoaded,
    AdapterUnloaded,
    Cancel,
    Command,
    CountTokens,
    Decode,
    Decoded,
    Embed,
    Embedded,
    Encode,
    Encoded,
    Event,
    ExtensionFailed,
    Failed,
    Finished,
    GenerateRequest,
    HookEntered,
    HookLeft,
    LoadAdapter,
    Loaded,
    LoadFailed,
    LoadModel,
    LoadProgress,
    ModelInfo,
    NextTokens,
    NextTokensFound,
    TokenChunk,
    TokenCounts,
    UnloadAdapter,
)
from modules.engine.swap import apply_again, load_or_go_back, remembered
from modules.engine.tally import Tally
from modules.engine.worker_process import WorkerProcess
from modules.errors import (
    AdapterError,
    EngineError,
    InvalidInputError,
    LanternError,
    LoadFailedError,
    NoModelError,
    PromptTooLongError,
    WorkerDiedError,
)
from modules.signals import Signal

__all__ = ["LocalEngine"]

log = logging.getLogger(__name__)


_PREPARED_S = 180.0
"""How long a prepared worker waits for a model; it takes some 300 MB of memory."""


class LocalEngine:
    """At most one worker with a model; loading another model ends the present one first."""

    def __init__(self) -> None:
        self.state = EngineState()
        self.changed = Signal()
        self.tally = Tally()
        self.catalog = None
        self._lock = asyncio.Lock()
        self._closed = False
        self._worker: WorkerProcess | None = None
        self._prepared: WorkerProcess | None = None
        self._ending: set[WorkerProcess] = set()
        self._loaded: asyncio.Future[ModelInfo] | None = None
        self._replies: dict[str, asyncio.Queue[TokenChunk | Finished | LanternError]] = {}
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._hooks = HookWatch(self._hung)
        self._rescues: set[asyncio.Task[None]] = set()

    def attach(self, source: HookSource) -> None:
        """Ask `source` for the hooks of every request from now on."""
        self._hooks.source = source

    @property
    def pid(self) -> int | None:
        """The process id of the worker, while there is one."""
        return self._worker.pid if self._worker else None

    def prepare(self) -> None:
        """Start a worker that imports its libraries while nobody waits for it.

        The next load takes it over; without one, it ends after a while.
        """
        if self._prepared is None and not self._closed and self.state.phase != "loading":
            loop = asyncio.get_running_loop()
            self._prepared = WorkerProcess(loop, self._receive, self._lost)
            loop.call_later(_PREPARED_S, self._drop_prepared, self._prepared)

    async def load(self, command: LoadModel) -> ModelInfo:
        """Load a checkpoint in the place of the present one; one load at a time.

        Cancelling ends the worker and leaves nothing loaded. Raises LoadFailedError, after the
        present model was loaded again.
        """
        async with self._lock:
            if self._closed:
                raise LoadFailedError("The engine is closed.", "Start Lantern again.")
            before = self.state
            try:
                return await load_or_go_back(self, self._replace_worker, command)
            except asyncio.CancelledError:
                self._drop_worker(_unloaded())
                self._become(remembered(before))
                raise

    async def _replace_worker(self, command: LoadModel) -> ModelInfo:
        self._drop_worker(_unloaded())
        stage = "Starting the engine worker"
        self._become(EngineState("loading", command.path, stage, command=command))
        loaded: asyncio.Future[ModelInfo] = asyncio.get_running_loop().create_future()
        self._loaded = loaded
        # What the old worker held on the card is back when its process has ended.
        await self._until_ended()
        if not loaded.done():
            self._start_worker(command)
        return await loaded

    async def unload(self) -> None:
        """End the worker, also in the middle of a load; running requests raise EngineError."""
        self._drop_worker(_unloaded())
        self._become(EngineState())
        await self._until_ended()

    async def generate(
        self, request: GenerateRequest
    ) -> AsyncGenerator[TokenChunk | Finished, None]:
        """The reply, chunk by chunk, then `Finished`; closing early cancels in the worker.

        Raises NoModelError, PromptTooLongError, WorkerDiedError, EngineError or AdapterError.
        """
        worker = self._ready_worker()
        request = replace(request, adapters=self.state.mix_of(request))
        request = self._hooks.with_hooks(request)
        log.info("request %s, %s:\n%s", request.id, request.params, request.prompt)
        if request.id in self._replies:
            raise EngineError("A request with this id is running already.", "Use a new id.")
        events = self._replies[request.id] = asyncio.Queue()
        worker.send(request)
        self.tally.begin(request.id)
        over = failed = False
        try:
            while not over:
                event = await events.get()
                over = not isinstance(event, TokenChunk)
                if isinstance(event, LanternError):
                    failed = True
                    raise event
                self.tally.note(event)
                yield event
        finally:
            self.tally.end(request.id, failed=failed)
            del self._replies[request.id]
            if not over:
                worker.send(Cancel(request.id))

    async def cancel(self, request_id: str) -> None:
        """Ask the worker to end a request; its iterator ends with `Finished`."""
        if request_id in self._replies and self._worker is not None:
            self._worker.send(Cancel(request_id))

    async def count_tokens(self, texts: list[str], special_tokens: bool = False) -> list[int]:
        """Tokens in each text, at once even while replies run. Raises EngineError."""
        count_id = uuid.uuid4().hex
        command = CountTokens(count_id, tuple(texts), special_tokens)
        counts: list[int] = await self._answer(count_id, command)
        return counts

    async def encode(self, text: str, special_tokens: bool = False) -> Encoded:
        """The tokens of a text, at once even while replies run. Raises EngineError."""
        key = uuid.uuid4().hex
        encoded: Encoded = await self._answer(key, Encode(key, text, special_tokens))
        return encoded

    async def decode(self, ids: list[int]) -> str:
        """The text of tokens, at once. Raises EngineError or InvalidInputError."""
        key = uuid.uuid4().hex
        decoded: Decoded = await self._answer(key, Decode(key, tuple(ids)))
        return decoded.text

    async def embed(self, text: str) -> Embedded:
        """A vector of a text. Raises PromptTooLongError or EngineError."""
        worker = self._ready_worker()
        key = uuid.uuid4().hex
        weights = tuple((a.info.name, a.weight) for a in self.state.adapters)
        try:
            embedded: Embedded = await self._answer(key, Embed(key, text, weights))
        except asyncio.CancelledError:
            worker.send(Cancel(key))
            raise
        return embedded

    async def next_tokens(self, command: NextTokens) -> NextTokensFound:
        """What the first token of a reply may be. Raises EngineError or AdapterError."""
        worker = self._ready_worker()
        request = command.request
        request = replace(request, adapters=self.state.mix_of(request))
        request = self._hooks.with_hooks(request)
        try:
            found: NextTokensFound = await self._answer(
                request.id, replace(command, request=request)
            )
        except asyncio.CancelledError:
            worker.send(Cancel(request.id))
            raise
        return found

    async def load_adapter(self, name: str, path: str) -> AdapterInfo:
        """Lay a LoRA over the model, between two tokens of the replies that run.

        Raises AdapterError or EngineError; one that had its name is gone then.
        """
        worker = self._ready_worker()
        former = [adapter.weight for adapter in self.state.adapters if adapter.info.name == name]
        self._become(self.state.without_adapter(name))
        load_id = uuid.uuid4().hex
        command = LoadAdapter(load_id, name, str(Path(path).resolve()))
        info: AdapterInfo = await self._answer(load_id, command)
        if former and worker is self._worker:
            self.weigh_adapters({name: former[0]})
        return info

    async def unload_adapter(self, name: str) -> None:
        """Take a LoRA off the model; running replies with it raise AdapterError."""
        self._ready_worker()
        self._become(self.state.without_adapter(name))
        unload_id = uuid.uuid4().hex
        await self._answer(unload_id, UnloadAdapter(unload_id, name))

    def weigh_adapters(self, weights: Mapping[str, float]) -> None:
        """Set weights for requests to come. Raises AdapterError or InvalidInputError."""
        self._ready_worker()
        self._become(self.state.with_weights(weights))

    async def close(self) -> None:
        """End everything; no process and no thread is left."""
        self._closed = True
        self._drop_prepared(self._prepared)
        await self.unload()

    async def _answer(self, key: str, command: Command) -> Any:
        """What the worker answers to a command with the id `key`. Raises LanternError."""
        worker = self._ready_worker()
        answer = self._answers[key] = asyncio.get_running_loop().create_future()
        worker.send(command)
        try:
            return await answer
        finally:
            del self._answers[key]

    # -- the worker's life --------------------------------------------------------------

    def _start_worker(self, command: LoadModel) -> None:
        loop = asyncio.get_running_loop()
        self._worker = self._prepared or WorkerProcess(loop, self._receive, self._lost)
        self._prepared = None
        # The worker has a working directory of its own.
        self._worker.send(replace(command, path=str(Path(command.path).resolve())))

    def _drop_worker(self, error: LanternError) -> None:
        """Let go of the worker, which then ends; whatever waits for it gets `error`."""
        worker, self._worker = self._worker, None
        self._hooks.clear()
        if worker is not None:
            worker.stop()
            self._ending.add(worker)
        self._fail_all(error)

    def _drop_prepared(self, worker: WorkerProcess | None) -> None:
        if worker is not None and worker is self._prepared:
            self._prepared = None
            worker.stop()
            self._ending.add(worker)

    async def _until_ended(self) -> None:
        for worker in list(self._ending):
            await worker.ended.wait()
            self._ending.discard(worker)

    def _ready_worker(self) -> WorkerProcess:
        if self._worker is None or self.state.phase != "ready":
            raise NoModelError
        return self._worker

    def _fail_all(self, error: LanternError) -> None:
        if self._loaded is not None and not self._loaded.done():
            self._loaded.set_exception(LoadFailedError(error.message, error.remedy))
        for events in self._replies.values():
            events.put_nowait(type(error)(error.message, error.remedy))
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(type(error)(error.message, error.remedy))

    def _become(self, state: EngineState) -> None:
        self.state = state
        self.changed.notify()

    # -- what a worker says, in the loop's thread ---------------------------------------

    def _receive(self, worker: WorkerProcess, events: list[Event]) -> None:
        if worker is self._worker:
            for event in events:
                self._handle(event)

    def _handle(self, event: Event) -> None:
        match event:
            case TokenChunk(id=key) | Finished(id=key):
                if key in self._replies:
                    self._replies[key].put_nowait(event)
            case Failed(id=key):
                self._fail_one(key, _error_of(event))
            case TokenCounts(id=key, counts=counts):
                self._settle(key, list(counts))
            case Encoded() | Decoded() | Embedded() | NextTokensFound():
                self._settle(event.id, event)
            case AdapterLoaded(id=key, info=adapter):
                self._become(self.state.with_adapter(adapter))
                self._settle(key, adapter)
            case AdapterUnloaded(id=key):
                self._settle(key, None)
            case HookEntered() | HookLeft() | ExtensionFailed():
                self._hooks.take(event)
            case LoadProgress(stage=stage, fraction=fraction):
                self._become(replace(self.state, stage=stage, fraction=fraction))
            case Loaded(info=info):
                command = self.state.command
                self._become(EngineState("ready", self.state.path, info=info, command=command))
                if self._loaded is not None and not self._loaded.done():
                    self._loaded.set_result(info)
            case LoadFailed(message=message, remedy=remedy):
                self._crash(LoadFailedError(message, remedy))

    def _settle(self, key: str, answer: Any) -> None:
        waiting = self._answers.get(key)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def _fail_one(self, key: str, error: LanternError) -> None:
        if key in self._replies:
            self._replies[key].put_nowait(error)
        waiting = self._answers.get(key)
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)

    def _lost(self, worker: WorkerProcess, why: str) -> None:
        """The process ended; unless it was let go before, that is a crash."""
        worker.join()
        worker.ended.set()
        if worker is self._prepared:
            self._prepared = None
        if worker is self._worker:
            kind = LoadFailedError if self.state.phase == "loading" else WorkerDiedError
            self._crash(kind(why, "Load the model again, or a smaller one if memory ran out."))

    def _hung(self, hook: HookEntered) -> None:
        """A hook keeps the worker for good: end it, and load the model again in a new one."""
        if self.state.phase == "ready" and self.state.command is not None:
            task = asyncio.get_running_loop().create_task(self._load_again(hook, self.state))
            self._rescues.add(task)
            task.add_done_callback(self._rescues.discard)

    async def _load_again(self, hook: HookEntered, before: EngineState) -> None:
        assert before.command is not None
        self._drop_worker(
            WorkerDiedError(
                f"The extension {hook.name} hung in {hook.hook}. It is off now, and the model is "
                "being loaded again.",
                "Regenerate the reply.",
            )
        )
        try:
            await self.load(before.command)
        except LoadFailedError as error:  # the state says so
            log.warning("loading again after a hook hung: %s", error)
            return
        await apply_again(self, before)

    def _crash(self, error: LanternError) -> None:
        self._become(
            replace(self.state, phase="crashed", stage="", fraction=0.0, info=None, error=error)
        )
        self._drop_worker(error)


def _unloaded() -> EngineError:
    return EngineError("The model was unloaded.", "Load a model, and send the message again.")


def _error_of(event: Failed) -> LanternError:
    if event.kind == "InvalidInputError":
        return InvalidInputError(event.message, event.remedy, event.field)
    kinds = {"PromptTooLongError": PromptTooLongError, "AdapterError": AdapterError}
    kind: type[LanternError] = kinds.get(event.kind, EngineError)
    return kind(event.message, event.remedy)
