"""`LocalEngine`: the `EngineClient` whose model lives in a worker process on this machine.

All state belongs to the event loop's thread, and nothing here waits in that thread:
`WorkerProcess` does the waiting.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

from modules.engine.client import EngineState
from modules.engine.protocol import (
    Cancel,
    CountTokens,
    Event,
    Failed,
    Finished,
    GenerateRequest,
    Loaded,
    LoadFailed,
    LoadModel,
    LoadProgress,
    ModelInfo,
    TokenChunk,
    TokenCounts,
)
from modules.engine.worker_process import WorkerProcess
from modules.errors import (
    EngineError,
    LanternError,
    LoadFailedError,
    NoModelError,
    PromptTooLongError,
    WorkerDiedError,
)
from modules.signals import Signal

__all__ = ["LocalEngine"]

log = logging.getLogger(__name__)


class LocalEngine:
    """At most one worker; loading another model ends the present one first."""

    def __init__(self) -> None:
        self.state = EngineState()
        self.changed = Signal()
        self._lock = asyncio.Lock()
        self._closed = False
        self._worker: WorkerProcess | None = None
        self._ending: set[WorkerProcess] = set()
        self._loaded: asyncio.Future[ModelInfo] | None = None
        self._replies: dict[str, asyncio.Queue[TokenChunk | Finished | LanternError]] = {}
        self._counts: dict[str, asyncio.Future[list[int]]] = {}

    @property
    def pid(self) -> int | None:
        """The process id of the worker, while there is one."""
        return self._worker.pid if self._worker else None

    async def load(self, command: LoadModel) -> ModelInfo:
        """Load a checkpoint in the place of the present one; one load at a time.

        Cancelling ends the worker and leaves the engine empty. Raises LoadFailedError.
        """
        async with self._lock:
            if self._closed:
                raise LoadFailedError("The engine is closed.", "Start Lantern again.")
            self._drop_worker(_unloaded())
            self._become(EngineState("loading", command.path, "Starting the engine worker"))
            loaded: asyncio.Future[ModelInfo] = asyncio.get_running_loop().create_future()
            self._loaded = loaded
            try:
                # What the old worker held on the card is back when its process has ended.
                await self._until_ended()
                if not loaded.done():
                    self._start_worker(command)
                return await loaded
            except asyncio.CancelledError:
                self._drop_worker(_unloaded())
                self._become(EngineState())
                raise

    async def unload(self) -> None:
        """End the worker, also in the middle of a load; running requests raise EngineError."""
        self._drop_worker(_unloaded())
        self._become(EngineState())
        await self._until_ended()

    async def generate(
        self, request: GenerateRequest
    ) -> AsyncGenerator[TokenChunk | Finished, None]:
        """The reply, chunk by chunk, then `Finished`; closing early cancels in the worker.

        Raises NoModelError, PromptTooLongError, WorkerDiedError or EngineError.
        """
        worker = self._ready_worker()
        log.info("request %s, %s:\n%s", request.id, request.params, request.prompt)
        if request.id in self._replies:
            raise EngineError("A request with this id is running already.", "Use a new id.")
        events = self._replies[request.id] = asyncio.Queue()
        worker.send(request)
        over = False
        try:
            while not over:
                event = await events.get()
                over = not isinstance(event, TokenChunk)
                if isinstance(event, LanternError):
                    raise event
                yield event
        finally:
            del self._replies[request.id]
            if not over:
                worker.send(Cancel(request.id))

    async def cancel(self, request_id: str) -> None:
        """Ask the worker to end a request; its iterator ends with `Finished`."""
        if request_id in self._replies and self._worker is not None:
            self._worker.send(Cancel(request_id))

    async def count_tokens(self, texts: list[str], special_tokens: bool = False) -> list[int]:
        """Tokens in each text, at once even while replies run. Raises EngineError."""
        worker = self._ready_worker()
        count_id = uuid.uuid4().hex
        counts: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._counts[count_id] = counts
        worker.send(CountTokens(count_id, tuple(texts), special_tokens))
        try:
            return await counts
        finally:
            del self._counts[count_id]

    async def close(self) -> None:
        """End everything; no process and no thread is left."""
        self._closed = True
        await self.unload()

    # -- the worker's life --------------------------------------------------------------

    def _start_worker(self, command: LoadModel) -> None:
        loop = asyncio.get_running_loop()
        self._worker = WorkerProcess(loop, self._receive, self._lost)
        # The worker has a working directory of its own.
        self._worker.send(replace(command, path=str(Path(command.path).resolve())))

    def _drop_worker(self, error: LanternError) -> None:
        """Let go of the worker, which then ends; whatever waits for it gets `error`."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.stop()
            self._ending.add(worker)
        self._fail_all(error)

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
        for counts in self._counts.values():
            if not counts.done():
                counts.set_exception(type(error)(error.message, error.remedy))

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
                waiting = self._counts.get(key)
                if waiting is not None and not waiting.done():
                    waiting.set_result(list(counts))
            case LoadProgress(stage=stage, fraction=fraction):
                self._become(replace(self.state, stage=stage, fraction=fraction))
            case Loaded(info=info):
                self._become(EngineState("ready", self.state.path, info=info))
                if self._loaded is not None and not self._loaded.done():
                    self._loaded.set_result(info)
            case LoadFailed(message=message, remedy=remedy):
                self._crash(LoadFailedError(message, remedy))

    def _fail_one(self, key: str, error: EngineError) -> None:
        if key in self._replies:
            self._replies[key].put_nowait(error)
        waiting = self._counts.get(key)
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)

    def _lost(self, worker: WorkerProcess, why: str) -> None:
        """The process ended; unless it was let go before, that is a crash."""
        worker.join()
        worker.ended.set()
        if worker is self._worker:
            kind = LoadFailedError if self.state.phase == "loading" else WorkerDiedError
            self._crash(kind(why, "Load the model again, or a smaller one if memory ran out."))

    def _crash(self, error: LanternError) -> None:
        self._become(EngineState("crashed", self.state.path, error=error))
        self._drop_worker(error)


def _unloaded() -> EngineError:
    return EngineError("The model was unloaded.", "Load a model, and send the message again.")


def _error_of(event: Failed) -> EngineError:
    kind = PromptTooLongError if event.kind == "PromptTooLongError" else EngineError
    return kind(event.message, event.remedy)
