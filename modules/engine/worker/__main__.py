"""`python -m modules.engine.worker ADDRESS`: the process that holds one model.

The web process listens at ADDRESS and writes the key of the connection, in hex, to this
process's standard input: an argument would show it to everyone on the machine. One thread
reads commands; the main thread loads the model, then computes. When the web process goes
away, so does this one.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.engine.protocol import (
    Cancel,
    Command,
    CountTokens,
    Decode,
    Decoded,
    Embed,
    Encode,
    Encoded,
    Event,
    Failed,
    GenerateRequest,
    LoadAdapter,
    Loaded,
    LoadFailed,
    LoadModel,
    LoadProgress,
    NextTokens,
    TokenCounts,
    UnloadAdapter,
)
from modules.errors import InvalidInputError, LoadFailedError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from modules.engine.worker.scheduler import Scheduler

__all__: list[str] = []


class Worker:
    """The two threads of the process and what they share."""

    def __init__(self, connection: Connection[Any, Any]) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._tokenizer: PreTrainedTokenizerBase | None = None

    def run(self) -> None:
        """Load what the first command says, then serve until the process is ended."""
        threading.Thread(target=self._read, name="commands", daemon=True).start()
        self._send([LoadProgress("Importing the libraries", 0.02)])
        # Before anybody asks: a worker may be started in advance for that.
        _import_libraries()
        command = self._commands.get()
        if isinstance(command, LoadModel):
            scheduler = self._load(command)
            if scheduler is not None:
                self._serve(scheduler)

    def _read(self) -> None:
        while True:
            try:
                command: Command = self._connection.recv()
            except (EOFError, OSError):
                # The web process is gone; nobody is left to clean up for.
                os._exit(0)
            if isinstance(command, CountTokens | Encode | Decode):
                self._tokenize(command)
            else:
                self._commands.put(command)

    def _load(self, command: LoadModel) -> Scheduler | None:
        def progress(stage: str, fraction: float) -> None:
            self._send([LoadProgress(stage, fraction)])

        try:
            from modules.engine.worker.model_info import model_info
            from modules.engine.worker.runners import make_runner
            from modules.engine.worker.scheduler import Scheduler
            from modules.engine.worker.tokens import end_ids
            from modules.loader.transformers_loader import load

            folder = Path(command.path)
            loaded = load(folder, progress, command.options, command.placement, command.offload_dir)
            info = model_info(folder, loaded, command.options)
            ready = make_runner(
                loaded,
                info.context_length,
                command.cache_tokens,
                progress,
                int8=command.options.cache_type == "8-bit",
            )
            scheduler = Scheduler(
                ready.runner,
                loaded.tokenizer,
                end_ids(loaded.model.generation_config, loaded.tokenizer),
                info.context_length,
                ready.most,
                prefill_chunk=ready.chunk,
                shared_chunk=ready.shared_chunk,
                flights=ready.flights,
                unsupported=info.unsupported,
                tell=self._send,
            )
        except LoadFailedError as error:
            self._send([LoadFailed(error.message, error.remedy)])
            return None
        except Exception as error:  # noqa: BLE001 - the boundary of the process
            self._send([LoadFailed(*_unforeseen(error))])
            return None
        self._tokenizer = loaded.tokenizer
        self._send([Loaded(info)])
        return scheduler

    def _serve(self, scheduler: Scheduler) -> None:
        while True:
            self._take_commands(scheduler)
            events = scheduler.step()
            if events:
                self._send(events)

    def _take_commands(self, scheduler: Scheduler) -> None:
        """Hand on every command that is there; wait for one when there is nothing to do."""
        while not (scheduler.has_work and self._commands.empty()):
            match self._commands.get():
                case GenerateRequest() as request:
                    scheduler.add(request)
                case Cancel(id=request_id):
                    scheduler.cancel(request_id)
                case LoadAdapter() as command:
                    scheduler.load_adapter(command)
                case UnloadAdapter() as command:
                    scheduler.unload_adapter(command)
                case NextTokens() as command:
                    scheduler.look(command)
                case Embed() as command:
                    scheduler.embed(command)

    def _tokenize(self, command: CountTokens | Encode | Decode) -> None:
        try:
            if self._tokenizer is None:
                raise LoadFailedError("The model is still loading.", "Wait until it is ready.")
            answer = _tokenized(self._tokenizer, command)
        except InvalidInputError as error:
            said = (error.message, error.remedy, error.field)
            self._send([Failed(command.id, "InvalidInputError", *said)])
            return
        except Exception as error:  # noqa: BLE001 - the boundary of the process
            self._send([Failed(command.id, "EngineError", *_unforeseen(error))])
            return
        self._send([answer])

    def _send(self, events: list[Event]) -> None:
        with self._sending:
            self._connection.send(events)


def _tokenized(
    tokenizer: PreTrainedTokenizerBase, command: CountTokens | Encode | Decode
) -> TokenCounts | Encoded | Decoded:
    from modules.engine.worker.tokens import decode, encode, pieces

    if isinstance(command, CountTokens):
        counts = (len(encode(tokenizer, text, command.special_tokens)) for text in command.texts)
        return TokenCounts(command.id, tuple(counts))
    if isinstance(command, Decode):
        return Decoded(command.id, decode(tokenizer, list(command.ids)))
    found = pieces(tokenizer, command.text, command.special_tokens)
    return Encoded(command.id, tuple(i for i, _ in found), tuple(text for _, text in found))


def _import_libraries() -> None:
    """Import what every load needs. What goes wrong here goes wrong again in the load."""
    with contextlib.suppress(Exception):
        from transformers import LlamaForCausalLM  # noqa: F401 - most models are, or are alike

        import modules.engine.worker.runners
        import modules.loader.transformers_loader  # noqa: F401


def _unforeseen(error: Exception) -> tuple[str, str]:
    """A message and a remedy for an error that nothing below has put into words."""
    if isinstance(error, MemoryError) or "out of memory" in str(error):
        remedy = "Choose a smaller context or 4-bit, or end what else uses the memory."
        return "Memory ran out while the model was made ready.", remedy
    text = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return f"The engine worker met an error ({text}).", "Load the model again."


def main() -> None:
    """Connect to the web process and serve it."""
    # Ctrl-C in the terminal reaches this process too; the web process ends it in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    key = bytes.fromhex(sys.stdin.readline().strip())
    Worker(Client(sys.argv[1], authkey=key)).run()


if __name__ == "__main__":
    main()
