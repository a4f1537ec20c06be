"""`ReplyBody`: a message as blocks of HTML, its text with a card wherever it calls a tool."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence

from modules.chat.tools.call import ReplyCall
from modules.ui.markdown import GrowingMarkdown, render_blocks

__all__ = ["WRITING_A_CALL", "ReplyBody", "body_blocks", "call_card"]

WRITING_A_CALL = '<p class="call-writing soft">Writing a call…</p>'

_STATES = {
    "asked": "Not run",
    "approved": "Will run",
    "running": "Running…",
    "done": "Done",
    "failed": "Failed",
    "refused": "Refused",
    "skipped": "Not run",
    "interrupted": "Interrupted",
}
_BUTTONS = (
    ("call-run", "primary", "Run", "Run it this once"),
    ("call-always", "", "Always in this chat", "Run it, and do not ask about this tool here"),
    ("call-refuse", "quiet", "Refuse", "Do not run it; the model is told so, and goes on"),
    ("stop", "quiet", "End here", "Run nothing, and end the reply"),
)


def body_blocks(text: str, calls: Sequence[ReplyCall], asking: bool = False) -> tuple[str, ...]:
    """The blocks of a message; `asking` puts buttons into the cards that wait."""
    if not calls:
        return render_blocks(text)
    return (*_before(text, calls, asking), *render_blocks(text[calls[-1].at :]))


class ReplyBody:
    """A reply that is being written, after whatever calls it has made so far."""

    def __init__(self, text: str, calls: Sequence[ReplyCall]) -> None:
        self.calls = calls
        self._fixed = _before(text, calls, asking=False)
        self._growing = GrowingMarkdown()
        self.update(text)

    @property
    def blocks(self) -> list[str]:
        """All of it."""
        return [*self._fixed, *self._growing.blocks]

    def update(self, text: str) -> int:
        """Take the text so far; returns the index of the first block that changed."""
        tail = text[self.calls[-1].at :] if self.calls else text
        return len(self._fixed) + self._growing.update(tail)


def call_card(call: ReplyCall, asking: bool = False) -> str:
    """A call as the page shows it: all of its arguments, and its result folded."""
    waits = asking and call.state == "asked"
    state = "Shall it run?" if waits else _STATES[call.state]
    buttons = "".join(
        f'<button type="button" class="{kind}" data-act="{act}" title="{title}">{word}</button>'
        for act, kind, word, title in _BUTTONS
    )
    return (
        f'<section class="call call-{call.state}" data-call="{_escaped(call.id)}"'
        f' aria-label="Call of {_escaped(call.name)}">'
        f'<div class="call-head"><strong>{_escaped(call.name)}</strong>'
        f'<span class="call-state">{state}</span></div>'
        f"{_arguments(call.arguments)}"
        + (f'<div class="call-buttons">{buttons}</div>' if waits else "")
        + _result(call)
        + "</section>"
    )


def _before(text: str, calls: Sequence[ReplyCall], asking: bool) -> list[str]:
    """The blocks up to the last call."""
    blocks: list[str] = []
    start = 0
    for call in calls:
        blocks += render_blocks(text[start : call.at])
        blocks.append(call_card(call, asking))
        start = max(start, call.at)
    return blocks


def _arguments(text: str) -> str:
    arguments = json.loads(text)
    if not arguments:
        return ""
    rows = "".join(
        f"<dt>{_escaped(name)}</dt><dd>{_escaped(_written(value))}</dd>"
        for name, value in arguments.items()
    )
    return f'<dl class="call-arguments">{rows}</dl>'


def _result(call: ReplyCall) -> str:
    if call.state not in ("done", "failed"):
        return ""
    shown = _escaped(call.result) or "(nothing)"
    word = "Result" if call.state == "done" else "What went wrong"
    return f'<details class="call-result"><summary>{word}</summary><pre>{shown}</pre></details>'


def _written(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _escaped(text: str) -> str:
    """For HTML, and so that nothing in it is unseen or turns the text around."""
    seen = (c if c.isprintable() or c in "\n\t" else f"\\u{ord(c):04x}" for c in text)
    return html.escape("".join(seen))
