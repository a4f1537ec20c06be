"""How the page keeps up with a long chat, measured in Chromium.

    python -m benchmarks.page [--messages 10 100 500 2000] [--tokens 200] [--speed 200]

A real server over an engine that is scripted (`FakeEngine`, `--speed` tokens a second), so that
all the time that is measured is Lantern's and the browser's. For each length of the stored
chat: opening it by a click in the list and by loading its address, until its last message is
painted; sending, until the message stands in the chat; the delay from the engine's last token
until the finished reply is painted; and the processor time of the browser for each update of the
streaming reply. The roof is what it takes to see that something is painted which is there
already: two frames. Prints rows for benchmarks/RESULTS.md, and one JSON object in the last line.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import platform
import shutil
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from playwright.sync_api import CDPSession, Page, sync_playwright

from modules.access import Access
from modules.chat.store import ChatStore
from modules.context import AppContext
from modules.engine.fake import FakeEngine
from modules.engine.protocol import Finished, GenerateRequest, LoadModel, TokenChunk
from modules.settings import Settings
from server import build_app, build_context, make_server

# Prose, a list and some code, as replies have them.
PROSE = (
    "Grouped-query attention shares keys and values between **groups** of query heads.\n\n"
    "1. Fewer keys are read.\n2. The cache is smaller.\n\n```python\nq = x @ wq\n```\n\n"
)
WORDS = PROSE.split(" ")

GOAL_MS = 150
"""For the finished reply to be painted after the engine's last token, up to 500 messages."""

# Resolves two frames after `sign` holds: then it has been painted.
WATCH = """
([selector, count]) => new Promise((resolve) => {
  const told = () => resolve(Date.now());
  const painted = () => requestAnimationFrame(() => requestAnimationFrame(told));
  const there = () => document.querySelectorAll(selector).length >= count;
  const look = () => there() && (seen.disconnect(), painted());
  const seen = new MutationObserver(look);
  seen.observe(document.body, { childList: true, subtree: true, attributes: true });
  look();
})
"""


@dataclass
class TimedEngine(FakeEngine):
    """A `FakeEngine` that remembers when its last token was given away (Unix seconds)."""

    ended: list[float] = field(default_factory=list)

    async def generate(
        self, request: GenerateRequest
    ) -> AsyncGenerator[TokenChunk | Finished, None]:
        async for event in super().generate(request):
            if isinstance(event, Finished):
                self.ended.append(time.time())
            yield event


def text_of(tokens: int) -> str:
    """So many words, which the scripted engine takes for tokens."""
    return " ".join(WORDS[i % len(WORDS)] for i in range(tokens))


def fill(store: ChatStore, messages: int, tokens: int) -> int:
    """A chat of the owner with so many messages; returns its id."""
    chat = store.create_chat("owner", f"{messages} messages")
    leaf = None
    with store.transaction():
        for i in range(messages):
            role = "assistant" if i % 2 else "user"
            leaf = store.append(chat.id, leaf, role, f"{i}. {text_of(tokens)}").id
    return chat.id


@contextlib.contextmanager
def serving(engine: TimedEngine, folder: Path) -> Iterator[tuple[str, Settings]]:
    """Lantern on a port of its own, over `engine`."""
    settings = Settings(
        user_data_dir=folder / "user_data", model_dir=folder / "models", lora_dir=folder / "loras"
    )
    settings.paths.prepare()
    tasks = []

    def started(ctx: AppContext) -> None:
        loop = asyncio.get_running_loop()
        tasks.append(loop.create_task(engine.load(LoadModel(str(settings.model_dir / "Tiny")))))

    listener = socket.create_server(("127.0.0.1", 0))
    server = make_server(build_app(build_context(settings, engine, Access()), started))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", settings
    server.should_exit = True
    thread.join()


def busy_ms(session: CDPSession) -> float:
    """Processor time of the page's own thread so far."""
    metrics = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}
    return float(metrics["TaskDuration"]) * 1000


def timed(page: Page, act: str, selector: str, count: int) -> float:
    """Milliseconds from a script's act until `count` matches of `selector` are painted."""
    started = page.evaluate(f"() => {{ const now = Date.now(); {act}; return now; }}")
    return float(page.evaluate(WATCH, [selector, count])) - float(started)


def measure(
    page: Page, url: str, engine: TimedEngine, chat: int, messages: int
) -> dict[str, float]:
    """One row: milliseconds each."""
    shown = min(messages, 60)
    page.goto(url)
    page.wait_for_selector(f"[data-chat='{chat}'] .chat-link")
    page.evaluate(WATCH, ["body[data-engine=ready]", 1])
    opened = timed(
        page, f"document.querySelector(\"[data-chat='{chat}'] .chat-link\").click()",
        "article.message", shown,
    )  # fmt: skip
    before = time.time()
    page.goto(f"{url}?chat={chat}", wait_until="commit")
    loaded = float(page.evaluate(WATCH, ["article.message", shown])) - before * 1000
    sent, late, updates = [], [], []
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    for turn in range(3):
        page.fill("#composer-text", f"Question {turn}")
        marked = "article.message.last.user, article.message.last.assistant"
        page.evaluate("() => document.querySelector('.last')?.classList.remove('last')")
        busy = busy_ms(session)
        sent.append(timed(page, "document.getElementById('send').click()", marked, 1))
        shown_at = float(page.evaluate(WATCH, [".message.last.assistant.complete", 1]))
        late.append(shown_at - engine.ended[-1] * 1000)
        updates.append((busy_ms(session) - busy) / 200)
    return {
        "open": opened,
        "load": loaded,
        "send": statistics.median(sent),
        "last token": statistics.median(late),
        "a token": statistics.median(updates),
    }


def report(rows: list[dict[str, float]], roof: float, browser: str) -> None:
    """Print what the figures are to be held against, and all of them as JSON."""
    long = [row for row in rows if row["messages"] <= 500]
    worst = max((row["last token"] for row in long), default=0.0)
    print(f"\nroof of this run: {roof:.0f} ms, two frames of an idle page")
    figures: dict[str, object] = {
        "benchmark": "page",
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "device": f"{platform.machine()}, {os.cpu_count()} cores, {browser}",
        "roof ms": round(roof, 2),
        "rows": [{name: round(value, 2) for name, value in row.items()} for row in rows],
    }
    if long:
        print(
            f"last token, up to 500 messages: {worst:.0f} ms at most; goal {GOAL_MS} ms, "
            f"{GOAL_MS / worst:.2f} of it; roof {roof / worst:.2f}"
        )
        figures |= {"last token ms": round(worst, 2), "goal ms": GOAL_MS}
        figures |= {"of goal": round(GOAL_MS / worst, 3), "of roof": round(roof / worst, 3)}
    print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, nargs="+", default=[10, 100, 500, 2000])
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--speed", type=float, default=200.0)
    options = parser.parse_args()
    engine = TimedEngine(
        reply=lambda request: text_of(200), delay=1 / options.speed, context_length=1_000_000
    )
    heads = "messages stored", "opened ms", "page loaded ms", "sent ms", "last token ms"
    print("|", " | ".join((*heads, "browser ms a token")), "|\n" + "|---" * 6 + "|")
    with tempfile.TemporaryDirectory() as folder, serving(engine, Path(folder)) as (url, settings):
        store = ChatStore(settings.paths.database)
        chats = {count: fill(store, count, options.tokens) for count in options.messages}
        store.close()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.goto(url)
            roof = statistics.median(timed(page, "", "body", 1) for _ in range(9))
            rows = []
            for count, chat in chats.items():
                row = {"messages": count} | measure(page, url, engine, chat, count)
                rows.append(row)
                print(
                    f"| {count:,} | {row['open']:.0f} | {row['load']:.0f} | {row['send']:.0f} "
                    f"| {row['last token']:.0f} | {row['a token']:.2f} |"
                )
            report(rows, roof, f"Chromium {browser.version}")
            browser.close()


if __name__ == "__main__":
    main()
