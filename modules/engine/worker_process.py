"""`WorkerProcess`: an engine worker and the threads that talk to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from modules.engine.protocol import Command, Event

__all__ = ["WorkerProcess"]

_ROOT = Path(__file__).resolve().parents[2]
_CONNECT_S = 60.0
_GRACE_S = 3.0


class WorkerProcess:
    """One worker, from its first moment to its last, seen from an event loop.

    `receive` gets each list of events and `lost` one sentence about the end, both in the
    thread of `loop`; `lost` is always the last call. `send` and `stop` return at once.
    `ended` is for the owner to set when `lost` was called.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        receive: Callable[[WorkerProcess, list[Event]], None],
        lost: Callable[[WorkerProcess, str], None],
    ) -> None:
        self.ended = asyncio.Event()
        self._loop = loop
        self._receive = receive
        self._lost = lost
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="engine-worker", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """The process id, once there is a process."""
        return self._process.pid if self._process else None

    def send(self, command: Command) -> None:
        """Queue a command. One for a worker that has ended goes nowhere."""
        self._commands.put(command)

    def stop(self) -> None:
        """End the process: politely, and after three seconds in any case."""
        self._stopping.set()
        # While there is no process yet, the thread that starts it sees `_stopping`.
        if self._process is not None:
            threading.Thread(target=_end, args=(self._process,), daemon=True).start()

    def join(self) -> None:
        """Wait for the thread that called `lost`, which has nothing left to do."""
        self._thread.join()

    def _run(self) -> None:
        key = secrets.token_bytes(32)
        try:
            with Listener(backlog=2, authkey=key) as listener:
                process = self._process = _spawn(str(listener.address), key)
                connection = self._accept(listener, process, key)
        except OSError as error:
            self._post(self._lost, f"The engine worker could not be started: {error.strerror}.")
            return
        slow = connection is None and process.poll() is None
        if connection is not None:
            self._converse(connection)
            # The pipe closes a moment before the process ends with its own exit code.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_S)
        _end(process)
        why = "The engine worker did not answer in time." if slow else _why(process.returncode)
        self._post(self._lost, why)

    def _accept(
        self, listener: Listener, process: subprocess.Popen[bytes], key: bytes
    ) -> Connection[Any, Any] | None:
        """The worker's connection, or None when it ended, was stopped, or took too long."""
        accepted: queue.SimpleQueue[Connection[Any, Any]] = queue.SimpleQueue()
        thread = threading.Thread(target=_accept_one, args=(listener, accepted), daemon=True)
        thread.start()
        deadline = time.monotonic() + _CONNECT_S
        while process.poll() is None and not self._stopping.is_set():
            if time.monotonic() > deadline:
                break
            with contextlib.suppress(queue.Empty):
                return accepted.get(timeout=0.02)
        # accept() knows no time limit; a connection of our own ends it.
        with contextlib.suppress(OSError, EOFError):
            Client(listener.address, authkey=key).close()
        thread.join()
        accepted.get().close()
        return None

    def _converse(self, connection: Connection[Any, Any]) -> None:
        sender = threading.Thread(
            target=self._pass_commands, args=(connection,), name="engine-commands", daemon=True
        )
        sender.start()
        with contextlib.suppress(EOFError, OSError):
            while True:
                self._post(self._receive, connection.recv())
        self._commands.put(None)
        sender.join()
        connection.close()

    def _pass_commands(self, connection: Connection[Any, Any]) -> None:
        """Send commands, so that a full pipe makes this thread wait and not the page."""
        with contextlib.suppress(OSError):
            while (command := self._commands.get()) is not None:
                connection.send(command)

    def _post(self, call: Callable[[WorkerProcess, Any], None], what: object) -> None:
        # A loop that is closed has nobody left to tell.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, self, what)


def _spawn(address: str, key: bytes) -> subprocess.Popen[bytes]:
    environment = {
        # Torch's threads otherwise spin while they wait for each other, and collapse when the
        # page or anything else wants a core. A 135M model on two busy cores, tokens a second,
        # median (worst) of 15: float32 4.7 (1.4) spinning, 14.4 (7.8) so; bfloat16 20.9 (0.8)
        # and 14.9 (9.8). The price is paid by bfloat16 on idle cores: about 24 against 15.
        "OMP_WAIT_POLICY": "passive",
        # A moment of spinning all the same (a step has hundreds of products, each of which waits
        # for both threads): the starter 64 to 70 tokens a second in place of 46 to 51; ten times
        # as long gave 73 to 79, and 13 beside two busy programs, where this gave 26.
        "GOMP_SPINCOUNT": "20000",
        **os.environ,
        # As the driver's own library numbers cards, so that a plan means the same ones.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        # A cache that grows leaves holes that nothing else fits into: with 4,000 tokens of context
        # a 16-bit 7B model held 27.7 GB of the card, and used 15.7.
        "PYTORCH_ALLOC_CONF": "expandable_segments:True",
        # Before whatever the user has there, whose libraries the page's process uses too.
        "PYTHONPATH": os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH")))),
        "HF_HUB_OFFLINE": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "modules.engine.worker", address],
        cwd=_ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
        stdin.write(key.hex().encode() + b"\n")
    return process


def _accept_one(listener: Listener, accepted: queue.SimpleQueue[Connection[Any, Any]]) -> None:
    while True:
        with contextlib.suppress(AuthenticationError, EOFError, ConnectionResetError):
            accepted.put(listener.accept())
            return


def _end(process: subprocess.Popen[bytes]) -> None:
    """Terminate, and kill what has not ended after three seconds."""
    process.terminate()
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _why(returncode: int) -> str:
    if returncode == -9:
        return (
            "The engine worker was killed (signal 9), most likely because memory ran out, "
            "or by hand."
        )
    if returncode == -signal.SIGSEGV:
        return "The engine worker crashed (segmentation fault)."
    if returncode < 0:
        return f"The engine worker was ended by signal {-returncode}."
    return f"The engine worker ended by itself (exit code {returncode})."
