"""A full disk and a folder that cannot be written: said in a sentence, and the old data whole."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from modules.engine.params import SamplingParams
from modules.errors import DownloadError
from modules.ui import downloads, training_sets
from modules.ui.components.knobs import to_widgets
from tests.downloads import FILES, SIZE, content
from tests.faults.conftest import Found
from tests.faults.house import House, build
from tests.hub import Hub, commit_of

pytestmark = pytest.mark.anyio

VALUES = to_widgets(SamplingParams())
BIG = "A long text. " * 8_000
MODEL = "owner/name"
PAGE, DISK_MB = 4096, 4


# -- everything that the web process writes -----------------------------------------------------


@dataclass(frozen=True)
class Writing:
    """One request that writes. What `removes` succeeds on a full disk, as it should."""

    name: str
    do: Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]
    removes: bool = False


def writing(name: str, path: str, /, removes: bool = False, **body: Any) -> Writing:
    async def do(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post(f"/page/{path}", json=body)

    return Writing(name, do, removes)


RUN = {"base": "Tiny", "datasets": [{"path": "mine.jsonl"}]}


def upload(name: str, path: str, content: bytes) -> Writing:
    async def do(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post(f"/page/{path}", content=content)

    return Writing(name, do)


ROWS = b"\n".join([b'{"instruction": "What is this?", "output": "A row."}'] * 2000)
TALK = json.dumps([{"conversations": [{"from": "human", "value": BIG}]}]).encode()
WRITINGS = [
    writing("a message", "chats/1/send", text=BIG, values=VALUES),
    writing("a message of a side", "chats/1/add", role="user", text=BIG),
    writing("an edit", "chats/1/messages/1/edit", text=BIG),
    writing("a system message", "chats/1/system", text=BIG),
    writing("a copy of a chat", "chats/1/copy"),
    upload("an attachment", "chats/1/attachments?name=notes.txt", BIG.encode()),
    upload("an imported chat", "import?name=chats.json", TALK),
    writing("a draft", "draft", mode="notebook", text=BIG),
    writing("a profile", "profile/save", name="Ann", about=BIG[:19_000]),
    writing("a preset", "presets/save", name="Mine", values=to_widgets(SamplingParams(top_k=7))),
    writing("a prompt", "prompts/save", name="Mine", text=BIG, replace=True),
    writing("a character", "characters/save", key="Mia", name="Mia", context=BIG[:60_000]),
    writing("a copy of a character", "characters/duplicate", name="Mia"),
    writing("a model's options", "models/settings/save", name="Tiny", options={"device": "cpu"}),
    writing("a chat template", "models/template/choose", name="Tiny", template="alpaca"),
    writing("settings.yaml", "session/settings", changes={"verbose": False, "cpu": True}),
    upload("a dataset", "training/datasets/upload?name=more.jsonl", ROWS),
    writing("a run", "training/start", config=RUN),
    writing("a deleted preset", "presets/delete", removes=True, name="Mine"),
    writing("a deleted prompt", "prompts/delete", removes=True, name="Mine"),
    writing("a deleted character", "characters/delete", removes=True, name="Mia"),
    writing("a deleted dataset", "training/datasets/delete", removes=True, name="mine.jsonl"),
]  # fmt: skip


async def furnish(house: House) -> None:
    """Something old of every kind."""
    house.ctx.settings.paths.training.mkdir()  # for which there is always room
    async with house.client() as owner:
        await owner.post("/page/chats")
        for path, body in (
            ("chats/1/send", {"text": BIG[:9000], "values": VALUES}),
            ("draft", {"mode": "notebook", "text": "Once"}),
            ("profile/save", {"name": "An"}),
            ("presets/save", {"name": "Mine", "values": VALUES}),
            ("prompts/save", {"name": "Mine", "text": "Once", "replace": True}),
            ("characters/save", {"name": "Mia", "context": "Old."}),
            ("models/settings/save", {"name": "Tiny", "options": {"context_length": 512}}),
            ("models/template/choose", {"name": "Tiny", "template": "chatml"}),
        ):
            answer = await owner.post(f"/page/{path}", json=body)
            assert (path, answer.status_code) == (path, 200), answer.text
        answer = await owner.post(
            "/page/training/datasets/upload?name=mine.jsonl", content=ROWS[:400]
        )
        assert answer.status_code == 200, answer.text
        await house.ctx.chats.wait(1)


# -- the faults -------------------------------------------------------------------------------


def refuse(house: House, call: str, code: int) -> AbstractContextManager[None]:
    """Every file that is begun, brought to the disk or renamed fails by `code`."""

    @contextmanager
    def failing() -> Iterator[None]:
        error = OSError(code, os.strerror(code))

        def below(path: object) -> bool:
            return isinstance(path, str | os.PathLike) and house.folder in Path(path).parents

        def guarded(real: Callable[..., Any], writes: Callable[..., bool]) -> Callable[..., Any]:
            def call(path: Any, *args: Any, **named: Any) -> Any:
                if writes(path, *args, **named):
                    raise error
                return real(path, *args, **named)

            return call

        def creates(path: Any, flags: int = 0, *_: Any, **__: Any) -> bool:
            return below(path) and bool(flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR))

        def opens(path: Any, mode: str = "r", *_: Any, **__: Any) -> bool:
            return below(path) and mode.strip("bt") != "r"

        patches: dict[str, list[tuple[Any, str, Callable[..., bool]]]] = {
            "begun": [(os, "open", creates), (io, "open", opens), (os, "mkdir", _any(below))],
            "brought to the disk": [(os, "fsync", lambda handle: True)],
            "renamed": [(os, "replace", _any(below)), (os, "rename", _any(below))],
            "removed": [(os, "unlink", _any(below)), (os, "rmdir", _any(below))],
        }
        with pytest.MonkeyPatch.context() as patch:
            for one in patches if call == "all" else [call]:
                for module, name, writes in patches[one]:
                    patch.setattr(module, name, guarded(getattr(module, name), writes))
            yield

    return failing()


def _any(below: Callable[[object], bool]) -> Callable[..., bool]:
    return lambda path, *_, **__: below(path)


@contextmanager
def no_room_in_the_database(house: House) -> Iterator[None]:
    with limited(house, "max_page_count", "page_count"):
        yield


@contextmanager
def limited(house: House, name: str, value: str) -> Iterator[None]:
    db = house.ctx.chats._stores.kept._db
    (before,) = db.execute(f"PRAGMA {name}").fetchone()
    (now,) = db.execute(f"PRAGMA {value}").fetchone() if value.isidentifier() else (value,)
    db.execute(f"PRAGMA {name} = {now}")
    yield
    db.execute(f"PRAGMA {name} = {before}")


@contextmanager
def filled(house: House) -> Iterator[None]:
    """Not a byte of room on its disk."""
    filler = house.folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65536, PAGE, 1):
            while True:
                try:
                    file.write(bytes(size))
                except OSError:
                    break
    yield
    filler.unlink()


@contextmanager
def read_only(house: House) -> Iterator[None]:
    """Nothing on its disk can be written."""
    with limited(house, "query_only", "1"):
        mount("-o", "remount,ro", house.folder)
        yield
        mount("-o", "remount,rw", house.folder)


def mount(*arguments: object) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)


def database_elsewhere(folder: Path) -> None:
    """A disk becomes read-only while nothing on it is being written."""
    place = folder.parent / "database"
    place.mkdir()
    (folder / "user_data" / "lantern.sqlite3").symlink_to(place / "lantern.sqlite3")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        mount("-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", place)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may not mount a disk, which is then tried with injected faults only")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


# -- what must hold --------------------------------------------------------------------------


async def refused_and_whole(
    house: House, fault: Callable[[], AbstractContextManager[None]], chosen: list[Writing]
) -> list[str]:
    """Do each writing under the fault, and then without it. Returns what was said."""
    said = []
    async with house.client() as owner:
        for writing in chosen:
            files, rows = house.files(), house.rows()
            with fault():
                answer = await writing.do(owner)
                told = (writing.name, answer.status_code, answer.text)
                assert 400 <= answer.status_code < 500, told
                assert answer.json()["message"].endswith("."), told
                assert answer.json()["remedy"].endswith("."), told
                assert house.files() == files, told
                assert house.rows() == rows, told
                assert (await owner.get("/page/presets")).status_code == 200
            said.append(answer.json()["message"])
        for writing in chosen:
            answer = await writing.do(owner)
            assert answer.status_code == 200, (writing.name, answer.text)
            await house.ctx.chats.wait(1)
    return said


IN_DATABASE = WRITINGS[:9]
IN_FILES = WRITINGS[9:]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    (tmp_path / "house").mkdir()
    house = await asyncio.to_thread(build, tmp_path / "house")
    await furnish(house)
    yield house
    house.close()


@pytest.mark.parametrize("call", ["begun", "brought to the disk", "renamed"])
async def test_a_disk_that_fills_while_a_file_is(call: str, house: House, found: Found) -> None:
    chosen = [w for w in IN_FILES if not w.removes]
    if call == "brought to the disk":  # what is uploaded is not
        chosen = [w for w in chosen if w.name != "a dataset"]
    fault = partial(refuse, house, call, errno.ENOSPC)
    said = await refused_and_whole(house, fault, chosen)
    found(f"No room (injected) when a file is {call}, {len(said)} kinds of writing",
          "each refused in a sentence, old files whole, and saved once there was room")  # fmt: skip


async def test_a_database_that_can_grow_no_more(house: House, found: Found) -> None:
    said = await refused_and_whole(house, lambda: no_room_in_the_database(house), IN_DATABASE)
    found(f"No room (injected) in the database, {len(said)} kinds of writing",
          "each refused in a sentence, old rows whole, and saved once there was room")  # fmt: skip


async def test_files_that_cannot_be_written(house: House, found: Found) -> None:
    said = await refused_and_whole(house, lambda: refuse(house, "all", errno.EROFS), IN_FILES)
    found(f"A read-only folder (injected), {len(said)} kinds of writing",
          "each refused in a sentence, old files whole")  # fmt: skip


async def test_a_real_disk_without_room(
    disk: Path, found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_sets, "_SPARE_BYTES", 0)
    house = await asyncio.to_thread(build, disk)
    await furnish(house)
    chosen = [w for w in WRITINGS if not w.removes]
    said = await refused_and_whole(house, lambda: filled(house), chosen)
    house.close()
    found(f"A real full disk, {len(said)} kinds of writing",
          "each refused in a sentence, old data whole, and saved once there was room")  # fmt: skip


async def test_a_real_disk_that_is_read_only(
    disk: Path, found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_sets, "_SPARE_BYTES", 0)
    house = await asyncio.to_thread(build, disk, place=database_elsewhere)
    await furnish(house)
    said = await refused_and_whole(house, lambda: read_only(house), WRITINGS)
    house.close()
    found(f"A real disk that became read-only, {len(said)} kinds of writing",
          "each refused in a sentence, old data whole, and saved once it was not")  # fmt: skip


# -- downloads ---------------------------------------------------------------------------------


async def test_a_download_onto_a_disk_that_fills_meanwhile(
    disk: Path, hub: Hub, found: Found
) -> None:
    house = await asyncio.to_thread(build, disk)
    hub.add(MODEL, FILES)
    hub.faults.pause_at = SIZE // 2
    job = await downloads.download(house.ctx, MODEL, commit_of(FILES))
    while job.fraction < 0.4:
        await house.ctx.jobs.changed.wait(house.ctx.jobs.changed.version)
    with filled(house):
        hub.faults.pause_at = -1
        hub.faults.go.set()
        await job.wait()
        assert (job.state, isinstance(job.error, DownloadError)) == ("failed", True)
        assert "The disk is full" in str(job.error)
        assert not (house.ctx.settings.model_dir / "owner_name").exists()
    await (await downloads.download(house.ctx, MODEL, commit_of(FILES))).wait()
    assert content(house.ctx.settings.model_dir / "owner_name") == FILES
    house.close()
    found("A download onto a real disk that fills meanwhile",
          "ended in a sentence, nothing under its name, and whole once there was room")  # fmt: skip


async def test_a_download_into_a_folder_that_is_read_only(
    disk: Path, hub: Hub, found: Found
) -> None:
    house = await asyncio.to_thread(build, disk, place=database_elsewhere)
    hub.add(MODEL, FILES)
    with read_only(house):
        job = await downloads.download(house.ctx, MODEL, commit_of(FILES))
        await job.wait()
        assert (job.state, isinstance(job.error, DownloadError)) == ("failed", True)
        assert "Read-only file system" in str(job.error)
    house.close()
    found("A download into a real folder that is read-only", "ended in a sentence")
