"""The shipped chat_to_dataset: replies that are rated become rows to train on."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from modules.extensions.manager import ExtensionManager
from modules.paths import Paths
from modules.settings import ROOT, Settings
from modules.training.config import DatasetSource
from modules.training.sources import DataFolders, Item, read_source
from tests.extensions.conftest import Manage

pytestmark = pytest.mark.anyio

NAME = "chat_to_dataset"
SYSTEM = {"role": "system", "content": "Be brief."}
ASKED = {"role": "user", "content": "Hi"}

Call = Callable[..., Awaitable[dict[str, Any]]]


def reply(message: int = 2, text: str = "Hello.", **changed: Any) -> dict[str, Any]:
    return {
        "id": message, "chat": 1, "role": "assistant", "text": text, "calls_tools": False,
        "history": [SYSTEM, ASKED], "versions": [],
    } | changed  # fmt: skip


@pytest.fixture
def paths(settings: Settings) -> Paths:
    return settings.paths


@pytest.fixture
def manager(manage_shipped: Manage) -> ExtensionManager:
    return manage_shipped(NAME)


@pytest.fixture
def call(manager: ExtensionManager) -> Call:
    async def call(action: str, message: dict[str, Any] | None = None, **body: Any) -> Any:
        (script,) = manager.plugins()
        return await manager.call(script, "page_call", action, body, message)

    return call


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


async def test_a_kept_reply_is_a_row_with_all_that_was_said_before(
    call: Call, paths: Paths
) -> None:
    found = await call("keep", reply())
    assert (found["rows"], found["rated"]["2"]["rating"]) == (1, "up")
    (row,) = rows(paths.datasets / "from-chats.jsonl")
    assert row["messages"] == [SYSTEM, ASKED, {"role": "assistant", "content": "Hello."}]


async def test_the_rows_are_what_a_training_reads(call: Call, paths: Paths) -> None:
    await call("keep", reply(text="One\u2028two\nthree"))
    await call("keep", reply(4), text="Another.")
    folders = DataFolders(None, paths.datasets, ROOT)
    file = paths.datasets / "from-chats.jsonl"
    items = list(read_source(DatasetSource(path=file.name), file, folders))
    assert len(items) == 2 and all(isinstance(item, Item) for item in items)


async def test_an_edit_is_what_is_kept(call: Call, paths: Paths) -> None:
    await call("keep", reply())
    found = await call("keep", reply(), text="Hello there.")
    assert found["rows"] == 1 and found["rated"]["2"]["edited"]
    (row,) = rows(paths.datasets / "from-chats.jsonl")
    assert row["messages"][-1]["content"] == "Hello there."


async def test_a_rating_can_be_changed_taken_back_and_undone(call: Call, paths: Paths) -> None:
    file = paths.datasets / "from-chats.jsonl"
    await call("keep", reply(4, "Second."))
    before = await call("keep", reply(), text="Edited.")
    found = await call("reject", reply())
    assert (found["rows"], found["rejected"], found["rated"]["2"]["rating"]) == (1, 1, "down")
    undone = await call("keep", reply(), row=before["rated"]["2"]["row"])
    assert (undone["rejected"], undone["rated"]) == (0, before["rated"])
    assert rows(file)[-1]["messages"][-1]["content"] == "Edited."
    await call("forget", reply())
    await call("forget", reply(4))
    assert not file.exists(), "nor is there a file without rows"


async def test_ratings_are_told_for_the_chat_that_is_shown(call: Call) -> None:
    await call("keep", reply())
    await call("reject", reply(9, chat=12))
    assert list((await call("look", chat="1"))["rated"]) == ["2"]
    assert list((await call("look", chat="12"))["rated"]) == ["9"]
    assert (await call("look", chat="2"))["rated"] == {}


async def test_versions_that_are_rated_differently_are_pairs(call: Call, paths: Paths) -> None:
    assert "no pair yet" in (await call("export"))["fault"]
    await call("keep", reply())
    await call("reject", reply(3, "Go away."))
    await call("reject", reply(8, "No.", history=[{"role": "user", "content": "Bye"}]))
    found = await call("export")
    assert (found["pairs"], found["file"].endswith("preferences/from-chats.jsonl")) == (1, True)
    assert rows(paths.user_data / "preferences" / "from-chats.jsonl") == [
        {
            "prompt": [SYSTEM, ASKED],
            "chosen": [{"role": "assistant", "content": "Hello."}],
            "rejected": [{"role": "assistant", "content": "Go away."}],
        }
    ]
    assert [f.name for f in paths.datasets.iterdir() if not f.name.startswith(".")] == [
        "from-chats.jsonl"
    ], "what was rated down is no set to train on"


async def test_what_somebody_wrote_into_the_file_stays(call: Call, paths: Paths) -> None:
    paths.datasets.mkdir(parents=True)
    file = paths.datasets / "from-chats.jsonl"
    file.write_text('{"instruction": "a", "output": "b"}\nno json\n')
    await call("keep", reply())
    await call("forget", reply())
    assert file.read_text() == '{"instruction": "a", "output": "b"}\nno json\n'


@pytest.mark.parametrize(
    ("message", "text", "fault"),
    [
        (reply(role="user"), None, "Only a reply"),
        (reply(calls_tools=True), None, "calls of tools"),
        (reply(history=[{"role": "assistant", "content": "", "tool_calls": [{}]}]), None, "calls"),
        (reply(text=" "), None, "empty"),
        (reply(), 7, "empty"),
    ],
)
async def test_what_is_no_row_is_refused(
    message: dict[str, Any], text: Any, fault: str, call: Call, paths: Paths,
    manager: ExtensionManager,
) -> None:  # fmt: skip
    body = {} if text is None else {"text": text}
    assert fault in (await call("keep", message, **body))["fault"]
    assert not (paths.datasets / "from-chats.jsonl").exists()
    assert manager.is_on(NAME)


@pytest.mark.parametrize("name", ["../../escape", "", "a/b", ".hidden"])
async def test_a_name_that_leads_elsewhere_is_refused(
    name: str, call: Call, manager: ExtensionManager, settings: Settings
) -> None:
    before = sorted(settings.user_data_dir.rglob("*"))
    await manager.set_param(NAME, "dataset", name)
    assert "cannot be used as a name" in (await call("keep", reply()))["fault"]
    assert [f for f in settings.user_data_dir.rglob("*") if f not in before and f.is_file()] == []


async def test_the_system_message_can_be_left_out(
    call: Call, manager: ExtensionManager, paths: Paths
) -> None:
    await manager.set_param(NAME, "with_system_message", False)
    await call("keep", reply())
    (row,) = rows(paths.datasets / "from-chats.jsonl")
    assert row["messages"][0] == ASKED
