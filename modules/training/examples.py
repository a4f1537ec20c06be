"""`Example`: what a row of a dataset teaches, in whichever of the usual forms it is written.

Alpaca, ShareGPT and OpenAI messages are told apart by their keys; anything else is read by a
mapping of columns that the user gives. Which text is learnt is decided later, in masking.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modules.chat.messages import Message, Role
from modules.errors import DatasetError
from modules.training.rows import Problem, Row, kind_of

__all__ = ["COLUMNS", "Example", "Form", "example_of", "recognise"]

COLUMNS = ("system", "prompt", "input", "response", "messages", "text")
"""What a column can be mapped to. `input` is added to the prompt below an empty line."""

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
}
_SYSTEM = ("system", "system_prompt")


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation, or (where there are no `messages`) plain text. `place` is its row's."""

    place: str
    messages: tuple[Message, ...] = ()
    text: str = ""


@dataclass(frozen=True, slots=True)
class Form:
    """How rows are written: a name for people, and the columns that are read."""

    name: str
    columns: Mapping[str, str] = field(default_factory=dict)
    """From an entry of COLUMNS to the name of the column in the file."""


# The first form whose columns a row has is taken; richer ones come first.
_FORMS = (
    *(Form("messages", {"messages": name}) for name in ("messages", "conversations")),
    *(Form("messages", {"messages": name}) for name in ("conversation", "dialog", "chat")),
    Form("Alpaca", {"prompt": "instruction", "input": "input", "response": "output"}),
    Form("Alpaca", {"prompt": "instruction", "response": "output"}),
    Form("Dolly", {"prompt": "instruction", "input": "context", "response": "response"}),
    Form("Alpaca", {"prompt": "instruction", "response": "response"}),
    Form("prompt and completion", {"prompt": "prompt", "response": "completion"}),
    Form("prompt and response", {"prompt": "prompt", "response": "response"}),
    Form("question and answer", {"prompt": "question", "response": "answer"}),
    Form("input and output", {"prompt": "input", "response": "output"}),
    Form("text", {"text": "text"}),
)


def recognise(keys: Sequence[str]) -> Form:
    """The form of rows with these keys. Raises DatasetError, which lists them."""
    for form in _FORMS:
        if set(form.columns.values()) <= set(keys):
            system = next((name for name in _SYSTEM if name in keys), "")
            return Form(form.name, {**form.columns, "system": system} if system else form.columns)
    shown = ", ".join(_shown(key) for key in sorted(keys)[:12]) or "none"
    raise DatasetError(
        f"The rows have columns that tell nothing by their names: {shown}.",
        "Say which of them are the prompt and the response.",
    )


def _shown(name: str) -> str:
    """The name of a column, as it is where it can be shown so."""
    return name if name.isprintable() and 0 < len(name) <= 60 else repr(name[:60])


def example_of(row: Row, form: Form) -> Example | Problem:
    """What a row teaches, read by a form. A row that teaches nothing is a `Problem`."""
    missing = [name for name in form.columns.values() if name not in row.fields]
    if missing:
        return _problem(row, "column", f"The row has no column {missing[0][:60]!r}.")
    if "text" in form.columns:
        text = row.fields[form.columns["text"]]
        if not isinstance(text, str) or not text.strip():
            return _problem(row, "empty", "The text is empty.")
        return Example(row.place, text=text)
    read: Callable[[Row, Form], list[Message]] = (
        _conversation if "messages" in form.columns else _pair
    )
    try:
        messages = read(row, form)
    except _RowError as error:
        return _problem(row, error.kind, error.sentence)
    return Example(row.place, tuple(messages))


class _RowError(Exception):
    def __init__(self, kind: str, sentence: str) -> None:
        self.kind, self.sentence = kind, sentence


def _problem(row: Row, kind: str, sentence: str) -> Problem:
    return Problem(row.file, row.number, kind, sentence)


def _pair(row: Row, form: Form) -> list[Message]:
    said = {to: _text(row, name) for to, name in form.columns.items()}
    prompt = "\n\n".join(part for part in (said["prompt"], said.get("input", "")) if part.strip())
    if not prompt:
        raise _RowError("empty prompt", "The prompt is empty.")
    if not said["response"].strip():
        raise _RowError("empty reply", "The reply is empty.")
    system = said.get("system", "")
    first = [Message("system", system)] if system.strip() else []
    return [*first, Message("user", prompt), Message("assistant", said["response"])]


def _text(row: Row, name: str) -> str:
    value = row.fields[name]
    if value is None:
        return ""
    if isinstance(value, bool | int | float):
        return str(value)
    if not isinstance(value, str):
        raise _RowError("type", f"The column {name[:60]!r} is {kind_of(value)}, not text.")
    return value


def _conversation(row: Row, form: Form) -> list[Message]:
    turns = row.fields[form.columns["messages"]]
    if isinstance(turns, str):  # a table has no lists, so that they stand in it as JSON
        try:
            turns = json.loads(turns)
        except (ValueError, RecursionError) as error:
            raise _RowError("messages", "The messages are no JSON list.") from error
    if not isinstance(turns, list) or not turns:
        raise _RowError("messages", "The messages are no list, or an empty one.")
    system = _text(row, form.columns["system"]) if "system" in form.columns else ""
    messages = [Message("system", system)] if system.strip() else []
    messages += [_turn(turn, i) for i, turn in enumerate(turns, start=1)]
    if not any(m.role == "assistant" for m in messages):
        raise _RowError("no reply", "No message of the conversation is a reply.")
    return messages


def _turn(turn: Any, number: int) -> Message:
    if not isinstance(turn, dict):
        raise _RowError("messages", f"Message {number} is no object.")
    said_by = turn.get("role", turn.get("from"))
    content = turn.get("content", turn.get("value"))
    role = _ROLES.get(str(said_by).lower())
    if role is None:
        if not isinstance(said_by, str):
            raise _RowError("role", f"Message {number} does not say who speaks.")
        raise _RowError("role", f"Message {number} is by {said_by[:40]!r}, which is no role.")
    if not isinstance(content, str):
        raise _RowError("type", f"Message {number} has no text.")
    if role == "assistant" and not content.strip():
        raise _RowError("empty reply", f"Message {number}, a reply, is empty.")
    return Message(role, content)
