"""`kill -9` of a server in the middle of replies and of saves: what was acknowledged is there."""

from __future__ import annotations

import json
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from modules.engine.params import SamplingParams
from modules.ui.components.knobs import to_widgets
from tests.faults.conftest import Found
from tests.faults.counts import counts
from tests.faults.nursery import Lantern, Nursery, script

VALUES = to_widgets(SamplingParams(max_new_tokens=4096))
LONG, SHORT = 4000, 3
"""Words of a reply that is killed in its middle, and of one that is soon saved."""
WRITERS = 4


@dataclass
class Told:
    """What the server has acknowledged: all of it must outlive the server.

    `titles` and `prompts` have the text that was acknowledged last, and the one behind it that
    was on its way; None stands for no file.
    """

    questions: dict[str, int] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)
    titles: dict[int, list[str]] = field(default_factory=dict)
    prompts: dict[str, list[str | None]] = field(default_factory=dict)
    saves: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


def ask(client: httpx.Client, told: Told, chat: int, question: str) -> None:
    """Send a message; it counts once the server has said that it has it."""
    sent = {"text": question, "values": VALUES}
    client.post(f"/page/chats/{chat}/send", json=sent).raise_for_status()
    told.questions[question] = chat


def talk_long(client: httpx.Client, told: Told, name: str) -> None:
    """A reply that is written until the server is gone, and one that is stopped before."""
    chat = client.post("/page/chats").raise_for_status().json()["id"]
    ask(client, told, chat, f"{name} one")
    time.sleep(0.2)
    client.post(f"/page/chats/{chat}/stop").raise_for_status()
    told.settled.add(f"{name} one")
    ask(client, told, chat, f"{name} two")
    while True:
        client.get(f"/page/chats/{chat}/tree").raise_for_status()
        time.sleep(0.05)


def talk_much(client: httpx.Client, told: Told, name: str) -> None:
    """One short reply after another, and between them all else that is saved."""
    chat = client.post("/page/chats").raise_for_status().json()["id"]
    titles = told.titles.setdefault(chat, ["", f"{name} 0"])
    texts = told.prompts.setdefault(name.partition(" ")[0], [None])
    for number in range(1_000_000):
        ask(client, told, chat, f"{name} {number}")
        client.post(f"/page/chats/{chat}/stop").raise_for_status()
        told.settled.add(f"{name} {number}")
        titles.append(f"{name} {number}")
        client.post(f"/page/chats/{chat}/rename", json={"text": titles[-1]}).raise_for_status()
        told.saves.append(titles[-1])
        del titles[:-1]
        texts.append(f"{name} {number}. " * 500)
        saved = {"name": name.partition(" ")[0], "text": texts[-1], "replace": True}
        client.post("/page/prompts/save", json=saved).raise_for_status()
        told.saves.append(saved["name"])
        del texts[:-1]
        draft = {"mode": "notebook", "text": texts[-1]}
        client.post("/page/draft", json=draft).raise_for_status()


def until_killed(
    lantern: Lantern, told: Told, name: str, after: float, work: Callable[..., None]
) -> None:
    """Several clients at work, and the server killed so many seconds after it began to answer."""
    before = len(told.questions)

    def run(writer: int) -> None:
        with (
            httpx.Client(base_url=lantern.url, timeout=20) as client,
            suppress(httpx.TransportError),
        ):
            work(client, told, f"writer{writer} {name}")

    threads = [threading.Thread(target=run, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    while len(told.questions) == before and any(thread.is_alive() for thread in threads):
        time.sleep(0.005)
    time.sleep(after)
    lantern.kill()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


def look_into(folder: Path, told: Told) -> list[tuple[int, int, str]]:
    """Check all that lies in a folder whose server is dead.

    Returns the chat, the id and the text of each reply that was being written.
    """
    with closing(sqlite3.connect(folder / "user_data" / "lantern.sqlite3")) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        rows = db.execute("SELECT id, chat_id, parent_id, role, content, state FROM messages")
        messages = {row[0]: row[1:] for row in rows}
        titles = dict(db.execute("SELECT id, title FROM chats"))
    asked = {m[3]: (id_, m[0]) for id_, m in messages.items() if m[2] == "user"}
    assert {q: asked[q][1] for q in told.questions} == told.questions
    replies = {m[1]: m for m in messages.values() if m[2] == "assistant"}
    ends = {replies[asked[question][0]][4] for question in told.settled}
    assert ends <= {"complete", "stopped"}
    for chat, given in told.titles.items():
        assert titles[chat] in given
    for name, texts in told.prompts.items():
        file = folder / "prompts" / f"{name}.txt"
        assert (file.read_text() if file.exists() else None) in texts
    return [(m[0], id_, m[3]) for id_, m in messages.items() if m[4] == "streaming"]


def told_of(client: httpx.Client, chat: int) -> dict[int, dict[str, Any]]:
    """The messages of a chat, as a tab gets them."""
    with client.stream("GET", "/page/events", params={"chat": chat}) as stream:
        line = next(line for line in stream.iter_lines() if line.startswith("data: "))
    return {message["id"]: message for message in json.loads(line[6:])["messages"]}


def all_cut(lantern: Lantern, interrupted: list[tuple[int, int, str]]) -> None:
    """Each reply that a kill has ended is shown as far as it was saved, and says why it ends."""
    with httpx.Client(base_url=lantern.url, timeout=20) as client:
        for chat, id_, text in interrupted:
            message = told_of(client, chat)[id_]
            assert (message["state"], bool(message["error"])) == ("cut", True)
            source = client.get(f"/page/chats/{chat}/messages/{id_}").json()["text"]
            assert source == text
            assert script(LONG).startswith(text)


@counts(4, 100)
@pytest.mark.parametrize("during", ["replies", "saves"])
def test_what_was_acknowledged_outlives_kill_9(
    during: str, count: int, nursery: Nursery, tmp_path: Path, found: Found
) -> None:
    draw, told = random.Random(during), Told()
    work, words, delay, least, most = {
        "replies": (talk_long, LONG, 0.01, 0.2, 2.5),
        "saves": (talk_much, SHORT, 0.0, 0.0, 1.0),
    }[during]
    interrupted: list[tuple[int, int, str]] = []
    cut = 0
    for number in range(count):
        lantern = nursery.start(tmp_path, words, delay)
        all_cut(lantern, interrupted)
        until_killed(lantern, told, f"round {number}", draw.uniform(least, most), work)
        interrupted = look_into(tmp_path, told)
        cut += len(interrupted)
    last = nursery.start(tmp_path, words, delay)
    all_cut(last, interrupted)
    last.kill()
    assert len(told.settled) > 0
    assert cut > 0 or during == "saves"
    found(
        f"`kill -9` of a server with {WRITERS} clients during {during}, {count} times",
        f"{len(told.questions):,} acknowledged messages, {len(told.settled):,} ended replies and "
        f"{len(told.saves):,} other saves, none lost; integrity_check ok each "
        f"time; {cut:,} replies in progress, each shown as cut by the next start",
    )
