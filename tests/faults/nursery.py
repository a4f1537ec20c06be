"""Whole Lanterns over a scripted model, each a process of its own that a test may kill.

`python -m tests.faults.nursery` imports everything once. For each line of JSON on its input it
forks a server (a second instead of five), which writes a line with its `pid` and `port` when it
answers. See `Nursery`.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.settings import ROOT

__all__ = ["Lantern", "Nursery", "script"]


def script(words: int) -> str:
    """What the model says to everything."""
    return " ".join(f"word{number}" for number in range(words))


@dataclass
class Lantern:
    """A server of its own."""

    pid: int
    url: str

    def kill(self) -> None:
        """As `kill -9` does it; returns when nothing of it runs any more."""
        process = os.pidfd_open(self.pid)
        os.kill(self.pid, signal.SIGKILL)
        select.select([process], [], [], 20)  # it is readable once it has ended
        os.close(process)


class Nursery:
    """Starts servers, until it is closed."""

    def __init__(self) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("LANTERN_")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.nursery"],
            cwd=ROOT,
            env=clean | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def start(self, folder: Path, words: int, delay: float) -> Lantern:
        """A server with all its folders in `folder`.

        Its model says `words` words, one every `delay` seconds.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        told = {"folder": str(folder), "words": words, "delay": delay}
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return Lantern(answer["pid"], f"http://127.0.0.1:{answer['port']}")

    def close(self) -> None:
        """End the nursery, and with it the servers that still run."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate(timeout=20)


def _serve(told: dict[str, Any]) -> None:
    """The life of one server."""
    from modules.engine.fake import FakeEngine
    from modules.engine.protocol import LoadModel
    from modules.settings import Settings
    from modules.ui.web import make_access
    from server import build_app, build_context, make_server

    folder = Path(told["folder"])
    settings = Settings(
        user_data_dir=folder / "user_data", model_dir=folder / "models",
        lora_dir=folder / "loras", prompt_dir=folder / "prompts", no_starter=True,
    )  # fmt: skip
    settings.paths.prepare()
    engine = FakeEngine(lambda request: script(told["words"]), told["delay"], 100_000)
    listener = socket.create_server(("127.0.0.1", 0))
    about = {"pid": os.getpid(), "port": listener.getsockname()[1]}
    tasks = []

    async def tell() -> None:
        await engine.load(LoadModel("models/scripted"))
        sys.stdout.write(json.dumps(about) + "\n")
        sys.stdout.flush()

    def started(ctx: Any) -> None:
        tasks.append(asyncio.get_running_loop().create_task(tell()))

    ctx = build_context(settings, engine, make_access(settings))
    make_server(build_app(ctx, started)).run(sockets=[listener])


def main() -> None:
    """Fork a server for each line that comes."""
    import modules.ui.app  # noqa: F401 - here, so that no server has to
    import server  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    for line in sys.stdin:
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _serve(json.loads(line))
            os._exit(0)


if __name__ == "__main__":
    main()
