"""The whole application on a real server, over a tiny model in a real worker."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import shutil
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
from fastapi import FastAPI

from modules.context import AppContext
from modules.engine.local import LocalEngine
from modules.engine.protocol import LoadModel
from modules.loader.options import LoadOptions
from modules.settings import ROOT, Settings
from modules.ui.web import make_access
from server import build_app, build_context, make_server

__all__ = ["Held", "Site", "site"]

Result = TypeVar("Result")


@dataclass(frozen=True)
class Held:
    """What a process holds that a fault may leave behind. Memory in MB."""

    threads: tuple[str, ...]
    tasks: int
    files: int
    memory: float
    worker_files: int
    worker_memory: float


@dataclass
class Site:
    """A running Lantern in this process, and the engine behind it."""

    url: str
    app: FastAPI
    ctx: AppContext
    engine: LocalEngine
    loop: asyncio.AbstractEventLoop

    def do(self, work: Coroutine[Any, Any, Result], seconds: float = 600) -> Result:
        """What `work` returns in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(seconds)

    def wait_until(self, condition: Callable[[], bool], pause: float = 0.001) -> None:
        """Until `condition` comes true, looking every `pause` seconds; a test waits for 30."""
        begun = time.perf_counter()
        while not condition():
            assert time.perf_counter() - begun < 30, "it did not come true"
            time.sleep(pause)

    @property
    def writing(self) -> int:
        """The requests that somebody listens to."""
        return len(self.engine._replies)

    @property
    def tasks(self) -> int:
        """What the server's loop is busy with, or waits for."""
        return self.do(_count_tasks())

    @property
    def files(self) -> int:
        """What this process has open, connections included."""
        return int(psutil.Process().num_fds())

    def until_silent(self) -> None:
        """Until nobody is written for, and the worker has heard of it.

        It takes commands in their order, between two tokens.
        """
        self.wait_until(lambda: not self.writing)
        self.do(self.engine.count_tokens(["x"]))

    def worker_busy(self) -> float:
        """Which part of half a second the worker computes."""
        worker = psutil.Process(self.engine.pid)
        before = sum(worker.cpu_times()[:2])
        time.sleep(0.5)
        return (sum(worker.cpu_times()[:2]) - before) / 0.5

    def held(self) -> Held:
        """What there is now."""
        gc.collect()
        us, worker = psutil.Process(), psutil.Process(self.engine.pid)
        names = (t.name for t in threading.enumerate())
        # Threads of pools are kept for the next work, up to a number of them.
        kept = ("asyncio_", "AnyIO worker", "ThreadPoolExecutor")
        return Held(
            threads=tuple(sorted(name for name in names if not name.startswith(kept))),
            tasks=self.tasks,
            files=us.num_fds(),
            memory=us.memory_info().rss / 1e6,
            worker_files=worker.num_fds(),
            worker_memory=worker.memory_info().rss / 1e6,
        )


async def _count_tasks() -> int:
    """Without the bare sleeps that gradio's heartbeats leave, which end after 15 s."""
    return sum("coroutine object sleep" not in str(t.get_coro()) for t in asyncio.all_tasks())


@contextlib.contextmanager
def site(folder: Path, model: Path, **changed: Any) -> Iterator[Site]:
    """Lantern with a checkpoint loaded, and some settings of its own."""
    settings = Settings(
        **changed,
        user_data_dir=folder / "user_data",
        model_dir=folder / "models",
        lora_dir=folder / "loras",
        prompt_dir=Path(shutil.copytree(ROOT / "prompts", folder / "prompts")),
        no_starter=True,
    )
    settings.paths.prepare()
    engine = LocalEngine()
    ctx = build_context(settings, engine, make_access(settings))
    up = threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    def started(ctx: AppContext) -> None:
        loops.append(asyncio.get_running_loop())
        up.set()

    listener = socket.create_server(("127.0.0.1", 0))
    server = make_server(app := build_app(ctx, started))
    thread = threading.Thread(target=server.run, args=([listener],), name="server")
    thread.start()
    assert up.wait(60)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    running = Site(url, app, ctx, engine, loops[0])
    running.do(engine.load(LoadModel(str(model), LoadOptions(device="cpu"))))
    yield running
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()
