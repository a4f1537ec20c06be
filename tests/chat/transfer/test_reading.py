"""Files from elsewhere: the forms that are known, and a sentence for everything else."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from modules.chat.copies import ChatCopy, MessageCopy
from modules.chat.transfer import reading
from modules.chat.transfer.ours import to_ours
from modules.chat.transfer.reading import read_chats
from modules.errors import InvalidInputError


def read(value: Any, name: str = "f.json") -> list[ChatCopy]:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return read_chats(io.BytesIO(data), name)


def said(value: Any, name: str = "f.json") -> str:
    """The sentence by which a file is refused."""
    with pytest.raises(InvalidInputError) as caught:
        read(value, name)
    assert caught.value.remedy
    assert caught.value.message.startswith(name)
    return caught.value.message


def turns(copy: ChatCopy) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in copy.branch()]


TALK = [("user", "Hi"), ("assistant", "Hello")]
OPENAI = {
    "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
}
SHAREGPT = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
WEBUI = {"internal": [["Hi", "Hello"]], "visible": [["Hi", "Hello"]]}
OURS: dict[str, Any] = json.loads(
    json.dumps(
        to_ours(
            ChatCopy(
                messages=(
                    MessageCopy(1, None, "user", "Hi"),
                    MessageCopy(2, 1, "assistant", "Hello"),
                ),
                leaf=2,
            )
        )
    )
)  # fmt: skip


# -- what is known --------------------------------------------------------------------------


@pytest.mark.parametrize("value", [OPENAI, SHAREGPT, WEBUI, OURS, OPENAI["messages"],
                                   SHAREGPT["conversations"],
                                   {"data": [["Hi", "Hello"]]}])  # fmt: skip
def test_each_form_alone_in_a_list_and_in_lines(value: Any) -> None:
    line = json.dumps(value).encode()
    assert [turns(copy) for copy in read(line)] == [TALK]
    assert [turns(copy) for copy in read([value, value])] == [TALK, TALK]
    for name in ("f.jsonl", "f.json"):
        lines = b"\n" + line + b"\r\n\n" + line
        assert [turns(copy) for copy in read(lines, name)] == [TALK, TALK]


def test_a_system_message_at_the_beginning_is_the_chats_own() -> None:
    (copy,) = read([{"role": "system", "content": "Be brief."}, *OPENAI["messages"]])
    assert (copy.system, turns(copy), copy.title) == ("Be brief.", TALK, "Hi")


def test_a_content_of_several_texts_is_joined() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    (copy,) = read([{"role": "user", "content": parts}])
    assert turns(copy) == [("user", "one\n\ntwo")]


def test_a_greeting_of_a_webui_history_answers_nobody() -> None:
    (copy,) = read({"internal": [["<|BEGIN-VISIBLE-CHAT|>", "Welcome."], ["Hi", ""]]})
    assert turns(copy) == [("assistant", "Welcome."), ("user", "Hi")]


def test_the_versions_of_a_webui_history_are_versions() -> None:
    versions = [{"content": "One", "timestamp": "Jul 15, 2025 10:30"}, {"content": "Two"}]
    metadata = {
        "user_0": {"attachments": [{"name": "a.txt", "content": "attached"}]},
        "assistant_0": {"versions": versions, "current_version_index": 0, "model_name": "M"},
    }
    (copy,) = read({"internal": [["Hi", "One"], ["More", "Yes"]], "metadata": metadata})
    assert [(m.id, m.parent) for m in copy.messages] == [(1, None), (2, 1), (3, 1), (4, 2), (5, 4)]
    assert [content for _, content in turns(copy)][1:] == ["One", "More", "Yes"]
    assert copy.messages[0].content.endswith("attached\n[End of a.txt]\n\nHi")
    assert (copy.messages[1].about, int(copy.messages[1].created_at) % 60) == ({"model": "M"}, 0)


def test_half_an_emoji_is_replaced_and_a_bom_is_no_text() -> None:
    (copy,) = read(b'\xef\xbb\xbf[{"role": "user", "content": "a\\ud83e"}]')
    assert turns(copy) == [("user", "a?")]


def test_children_that_stand_before_their_parents_find_them() -> None:
    (copy,) = read(OURS | {"messages": OURS["messages"][::-1]})
    assert [m.id for m in copy.messages] == [1, 2]


# -- what is not ----------------------------------------------------------------------------


def ours(*messages: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """A chat of ours whose messages differ in these keys from those of OURS."""
    made = [OURS["messages"][i % 2] | message for i, message in enumerate(messages)]
    return OURS | {"messages": made, "leaf": None} | keys


BAD: list[tuple[Any, str]] = [
    (b"", "line 1 is no JSON"),
    (b'{"messages": [}', "line 1 is no JSON"),
    (b'{"messages":\n\n [', "line 3 is no JSON"),
    (b"\xff\xfe", "byte 0 is no UTF-8"),
    (b"[" * 100_000, "nested too deeply"),
    (b"[" + b"9" * 5000 + b"]", "number without end"),
    (b"NaN", "NaN stands where a list is needed"),
    ({}, "no chat in a form"),
    ([], "there is no chat"),
    ([7], "chat 1: 7 stands where an object is needed"),
    ([OPENAI, {"x": 1}], "chat 2: this is no chat in a form"),
    ({"messages": {}}, "an object stands where a list is needed"),
    ([{"role": "user"}], "message 1: 'content' is missing"),
    ([{"role": "user", "content": None}], "message 1: at 'content', null stands where text"),
    ([{"role": "tool", "content": "x"}], 'message 1: "tool" is a role'),
    ([{"role": "user", "content": [{"type": "image"}]}], 'message 1, part 1: it is "image"'),
    ({"conversations": [{"from": "human", "value": 3}]}, "message 1: at 'value', 3 stands"),
    ({"internal": [["Hi"]]}, "internal, row 1: this is no pair"),
    ({"internal": [["Hi", "x"], ["a", None]]}, "internal, row 2: at 'reply', null stands"),
    ({"internal": [["Hi", "x"]], "metadata": {"user_0": {"versions": [1]}}}, "versions, version 1"),
    (OURS | {"lantern": 2}, "this is form 2"),
    (OURS | {"secret": 2}, "the key 'secret' is unknown"),
    (OURS | {"leaf": 3}, "'leaf' is 3, and no message"),
    (OURS | {"mode": "x"}, "'mode' is \"x\", and not instruct or"),
    (OURS | {"created_at": float("nan")}, "at 'created_at', NaN is no number"),
    (OURS | {"adapters": [["a", 1e9]]}, "adapters, entry 1: at 'weight'"),
    (ours({}, {"parent": 9}), "message 2: its parent 9 is not in the file"),
    (ours({}, {"id": 1}), "message 2: the id 1 was there before"),
    (ours({"parent": 2}, {}), "message 1: it is below itself"),
    (ours({"parent": 1}), "message 1: it is below itself"),
    (ours({"id": 1.5}), "'id' is 1.5"),
    (ours({"role": "tool"}), "message 1: 'role' is \"tool\""),
    (ours({"state": "streaming"}), "message 1: 'state' is"),
    (ours({"files": [1]}), "message 1: 'files' names 1"),
    (ours({"about": {"x": float("inf")}}), "message 1, about: it has NaN or an endless number"),
    (ours({"about": {"completion_tokens": 3}}), "message 1, about: 'prompt_tokens' is missing"),
    (ours({"about": {"seed": "x"}}), "message 1, about: at 'seed'"),
    (ours({"about": {"mode": "x"}}), 'message 1, about: "x" is no mode'),
    (ours({"about": {"params": {"top_k": -7}}}), "about, params: top_k cannot be -7"),
    (ours({"about": {"adapters": [3]}}), "about, adapter 1: this is no name"),
    (ours({"content": "x" * 1_000_001}), "'content' has 1,000,001 characters"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "sentence"), BAD, ids=range(len(BAD)))
def test_a_fault_is_named_with_its_place(value: Any, sentence: str) -> None:
    assert sentence in said(value)


def test_a_fault_in_a_line_is_named_by_the_line() -> None:
    good = json.dumps(OPENAI).encode()
    assert said(good + b"\n\n{]\n", "f.jsonl").startswith("f.jsonl, line 3: column 2 is no JSON")
    assert said(good + b"\n[{}]\n", "f.jsonl").startswith("f.jsonl, line 2, message 1: 'role'")


def test_a_value_that_is_too_large_is_refused_before_it_is_parsed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "_MAX_JSON_BYTES", 1000)
    assert "line 1: it has more than" in said(ours({"content": "x" * 1000}))
    assert len(read(b"\n".join([json.dumps(OPENAI).encode()] * 50), "f.json")) == 50


def test_chats_and_messages_of_a_file_have_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_MAX_MESSAGES", 3)
    assert "chat 2: a file may have" in said([OPENAI, OPENAI])
