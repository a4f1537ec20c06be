"""What Lantern exports, it imports again as it was."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.chat.attachments import AttachmentStore
from modules.chat.copies import ChatCopy, add_copy, copy_of
from modules.chat.document_text import Extracted
from modules.chat.store import ChatStore
from modules.chat.transfer.reading import read_chats
from modules.chat.transfer.writing import FORMS, file_name, line_of

OWNER = "owner"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ChatStore]:
    store = ChatStore(tmp_path / "chats.sqlite3")
    yield store
    store.close()


@pytest.fixture
def copy(store: ChatStore) -> ChatCopy:
    """A chat with a bit of everything, as it is in the store."""
    chat = store.create_chat(OWNER, "Grüße: a/b").id
    store.change_chat(
        chat, system="Be brief.", mode="chat-instruct", character="Ada", folder="Work",
        pinned=True, adapters=(("poet", 0.5),),
    )  # fmt: skip
    AttachmentStore(store).add(chat, "notes.txt", 9, Extracted("the notes", ""))
    question = store.send(chat, None, "Why? 😀\n<b>")
    about = {"model": "Tiny", "seed": 4, "params": {"temperature": 0.5}}
    first = store.append(chat, question.id, "assistant", "Because.", about=about)
    store.append(chat, first.id, "user", "And then?")
    gone = store.append(chat, question.id, "assistant", "Deleted.")
    store.append(chat, question.id, "assistant", "", state="streaming")
    store.edit(chat, question.id, "Why not?", keep_tail=False)
    store.delete_message(chat, gone.id)
    store.pin(chat, first.id, True)
    store.show_version(chat, first.id)
    return copy_of(store, store.chat(chat, OWNER))


def again(store: ChatStore, data: str, name: str = "chat.json") -> ChatCopy:
    (read,) = read_chats(io.BytesIO(data.encode()), name)
    return copy_of(store, store.chat(add_copy(store, OWNER, read), OWNER))


def without_ids(copy: ChatCopy) -> dict[str, Any]:
    """A chat with ids replaced by places."""
    at = {None: None} | {m.id: i for i, m in enumerate(copy.messages)}
    files = {file.id: i for i, file in enumerate(copy.files)}
    value = json.loads(line_of(copy))
    for message in value["messages"]:
        message["id"], message["parent"] = at[message["id"]], at[message["parent"]]
        message["files"] = [files[id_] for id_ in message["files"]]
    for file in value["files"]:
        file["id"] = files[file["id"]]
    return value | {"leaf": at[value["leaf"]]}


def test_lanterns_own_form_keeps_everything(store: ChatStore, copy: ChatCopy) -> None:
    assert len(copy.messages) == 5
    assert [m.state for m in copy.messages].count("stopped") == 1
    for data in (FORMS["lantern"].write(copy), line_of(copy)):
        assert without_ids(again(store, data)) == without_ids(copy)


def test_an_export_of_all_chats_comes_back_as_a_whole(store: ChatStore, copy: ChatCopy) -> None:
    lines = line_of(copy) * 3
    read = read_chats(io.BytesIO(lines.encode()), "all.jsonl")
    assert [without_ids(one) for one in read] == [without_ids(copy)] * 3


def test_sharegpt_keeps_the_shown_branch_and_the_system_text(
    store: ChatStore, copy: ChatCopy
) -> None:
    read = again(store, FORMS["sharegpt"].write(copy))
    assert [m.role for m in read.messages] == ["user", "assistant", "user"]
    assert read.messages[0].content == copy.whole_text(copy.branch()[0])
    assert "the notes" in read.messages[0].content
    assert (read.title, read.system) == (copy.title, copy.system)


def test_a_webui_history_keeps_the_shown_branch(store: ChatStore, copy: ChatCopy) -> None:
    value = json.loads(FORMS["webui"].write(copy))
    assert [len(pair) for pair in value["internal"]] == [2, 2]
    assert "&lt;b&gt;" in value["visible"][0][0]
    read = again(store, json.dumps(value))
    assert [m.content for m in read.messages[1:]] == ["Because.", "And then?"]


def test_markdown_is_to_be_read(copy: ChatCopy) -> None:
    text = FORMS["markdown"].write(copy)
    assert text.startswith(
        "# Grüße: a/b\n\n## System\n\nBe brief.\n\n## You\n\n*Attached: notes.txt"
    )
    assert text.endswith("## Tiny\n\nBecause.\n\n## You\n\nAnd then?\n")


@pytest.mark.parametrize(
    ("title", "name"),
    [("Grüße: a/b", "Grüße a b.md"), ("", "chat.md"), ("../..", "chat.md"),
     ("a\r\nb: c", "a b c.md"), ("x" * 300, "x" * 80 + ".md"), ('"quoted"', "quoted.md")],
)  # fmt: skip
def test_a_title_becomes_a_name_that_every_file_system_takes(title: str, name: str) -> None:
    assert file_name(title, ".md") == name
