"""Rate replies and keep the good ones, as they are or edited, as rows to train a LoRA on.

A reply that is kept becomes a row of `user_data/datasets/<dataset>.jsonl`, with everything that
the model was told before it, in OpenAI's form; the Training tab lists the file at once. A reply
that is rated down stands in a file of its own beside it, which no training reads. Where versions
of one message are rated differently, the export pairs them into
`user_data/preferences/<dataset>.jsonl`, in the form that trl's DPOTrainer reads.

The rows are the files themselves: what is edited or deleted there is so here too.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from modules.errors import InvalidNameError
from modules.extensions.webui import shared
from modules.paths import safe_child, write_atomically

params: dict[str, Any] = {
    "display_name": "Chat to dataset",
    "dataset": "from-chats",
    "with_system_message": True,
}

Row = dict[str, Any]

_MAX_CHARS = 1_000_000
_here = Path(__file__).parent
_lock = threading.Lock()
"""Two tabs may rate at once."""


def custom_js() -> str:
    """The bar at each reply."""
    return (_here / "bar.js").read_text("utf-8")


def custom_css() -> str:
    """How the bar looks."""
    return (_here / "bar.css").read_text("utf-8")


def page_call(action: str, body: dict[str, Any], message: dict[str, Any] | None) -> dict[str, Any]:
    """What the bar asks for. `fault` in the answer is a sentence for the user."""
    try:
        with _lock:
            files = _Files(str(params["dataset"]))
            if message is not None and action in ("keep", "reject", "forget"):
                return _rate(files, action, body, message)
            if action == "export":
                return _export(files)
            return files.summary(str(body.get("chat", "")))
    except InvalidNameError as error:
        return {"fault": f"{error} It is the param dataset, in the Session tab."}
    except OSError as error:
        return {"fault": f"The rows cannot be written: {error.strerror}. Make room on the disk, "
                "or make user_data/datasets writable."}  # fmt: skip


def _rate(
    files: _Files, action: str, body: dict[str, Any], message: dict[str, Any]
) -> dict[str, Any]:
    chat, key = str(message["chat"]), f"{message['chat']}/{message['id']}"
    if action != "forget":
        text = body.get("text", message["text"])
        if fault := _fault(message, text):
            return {"fault": fault}
        row = {"messages": [*_told(message), {"role": "assistant", "content": text}], "id": key}
        if text != message["text"]:
            row["edited"] = True
        if body.get("row"):  # undone: as it was before
            row = {**body["row"], "id": key}
        files.put(key, row, kept=action == "keep")
    else:
        files.put(key, None, kept=True)
    return files.summary(chat)


def _fault(message: dict[str, Any], text: Any) -> str:
    """Why a message is no row to learn from; empty where it is one."""
    if message["role"] != "assistant":
        return "Only a reply can be kept."
    if message["calls_tools"] or any("tool_calls" in one for one in message["history"]):
        return "A chat with calls of tools cannot be kept as a row."
    if not isinstance(text, str) or not text.strip():
        return "The reply is empty. Write what it should say."
    return "The reply is longer than 1,000,000 characters." if len(text) > _MAX_CHARS else ""


def _told(message: dict[str, Any]) -> list[dict[str, Any]]:
    """What the model was told before the reply."""
    told = [{"role": one["role"], "content": one["content"]} for one in message["history"]]
    if not params["with_system_message"]:
        told = [one for one in told if one["role"] != "system"]
    return told


def _export(files: _Files) -> dict[str, Any]:
    """Write the pairs."""
    pairs = files.pairs()
    if not pairs:
        return {"fault": "There is no pair yet: keep one version of a reply, and rate another "
                "one down."}  # fmt: skip
    folder = shared.args.user_data_dir / "preferences"
    folder.mkdir(parents=True, exist_ok=True)
    target = safe_child(folder, files.kept.name)
    write_atomically(target, _lines(pairs))
    return {"pairs": len(pairs), "file": f"{folder.parent.name}/{folder.name}/{target.name}"}


class _Files:
    """The rows of one dataset: those that are kept, and those that were rated down."""

    def __init__(self, name: str) -> None:
        folder = shared.args.user_data_dir / "datasets"
        folder.mkdir(parents=True, exist_ok=True)
        self.kept = safe_child(folder, f"{name}.jsonl")
        self.rejected = folder / f".{name}-rejected.jsonl"

    def put(self, key: str, row: Row | None, *, kept: bool) -> None:
        """Have a row in one of the files, at its place where it has one, and not in the other."""
        for file, wanted in ((self.kept, kept), (self.rejected, not kept)):
            lines = _read(file)
            before = list(lines)
            place = next((i for i, line in enumerate(lines) if _row(line).get("id") == key), None)
            if place is not None:
                del lines[place]
            if wanted and row is not None:
                lines.insert(len(lines) if place is None else place, _line(row))
            if lines != before:
                _write(file, lines)

    def summary(self, chat: str) -> dict[str, Any]:
        """How many rows there are, and what became of the replies of a chat."""
        rated: dict[str, Row] = {}
        counts = []
        for file, rating in ((self.kept, "up"), (self.rejected, "down")):
            rows = [row for row in map(_row, _read(file)) if row]
            counts.append(len(rows))
            for row in rows:
                owner, _, message = str(row.get("id", "")).partition("/")
                if owner == chat and message:
                    rated[message] = {"rating": rating, "edited": bool(row.get("edited")),
                                      "row": row}  # fmt: skip
        return {
            "rated": rated,
            "rows": counts[0],
            "rejected": counts[1],
            "pairs": len(self.pairs()),
            "file": self.kept.name,
        }

    def pairs(self) -> list[Row]:
        """Each reply that was kept with each that was rated down, where both answer the same."""
        rejected: dict[str, list[Any]] = {}
        for row in map(_row, _read(self.rejected)):
            if row:
                rejected.setdefault(_question(row), []).append(row["messages"][-1])
        return [
            {"prompt": row["messages"][:-1], "chosen": [row["messages"][-1]], "rejected": [other]}
            for row in map(_row, _read(self.kept))
            if row
            for other in rejected.get(_question(row), ())
            if other != row["messages"][-1]
        ]


def _question(row: Row) -> str:
    """What a row answers, less what was told by the system."""
    said = [one for one in row["messages"][:-1] if one.get("role") != "system"]
    return json.dumps(said, sort_keys=True)


def _read(file: Path) -> list[str]:
    """The lines; a text may have other breaks of lines in it, which are none of JSON's."""
    return file.read_text("utf-8").rstrip("\n").split("\n") if file.is_file() else []


def _row(line: str) -> Row:
    """A line as a row of ours; empty for one that somebody else wrote in another form."""
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    fits = isinstance(row, dict) and isinstance(row.get("messages"), list) and row["messages"]
    return row if fits and all(isinstance(one, dict) for one in row["messages"]) else {}


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False)


def _lines(rows: Iterable[Row]) -> str:
    return "".join(f"{_line(row)}\n" for row in rows)


def _write(file: Path, lines: list[str]) -> None:
    """Replace a file by these lines; without any, it is gone."""
    if lines:
        write_atomically(file, "".join(f"{line}\n" for line in lines))
    else:
        file.unlink(missing_ok=True)
