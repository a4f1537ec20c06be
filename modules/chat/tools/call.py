"""`ReplyCall`: a call of a tool within a reply, and what came of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from modules.chat.messages import Message, ToolCall

__all__ = [
    "CallState",
    "ReplyCall",
    "calls_of",
    "ended",
    "messages_of",
    "moved",
    "settled",
    "tail_of",
    "written",
]

CallState = Literal[
    "asked", "approved", "running", "done", "failed", "refused", "skipped", "interrupted"
]
"""`asked`: waits for the owner. `approved`: waits for its turn. `skipped`: never ran, because
the reply ended before. `interrupted`: the reply ended while it ran, so that it may have acted."""

_TOLD = {
    "asked": "This call was not run.",
    "approved": "This call was not run.",
    "skipped": "This call was not run.",
    "running": "This call was interrupted. It may have run in part.",
    "interrupted": "This call was interrupted. It may have run in part.",
    "refused": "The user refused this call.",
}


@dataclass(frozen=True, slots=True)
class ReplyCall:
    """One call. It stands before the character `at` of the reply's text.

    `arguments` is the text of a JSON object. Calls of one `round`, counted from 1, were made
    together, and answered together.
    """

    id: str
    name: str
    arguments: str
    at: int
    round: int
    state: CallState = "asked"
    result: str = ""

    @property
    def told(self) -> str:
        """What the model is told of it."""
        return self.result if self.state in ("done", "failed") else _TOLD[self.state]


def settled(calls: Sequence[ReplyCall]) -> tuple[ReplyCall, ...]:
    """The calls of a reply that nobody is writing: none of them runs."""
    waiting = any(call.state == "asked" for call in calls)
    rest: dict[CallState, CallState] = {"running": "interrupted"}
    if not waiting:
        rest["approved"] = "skipped"
    return tuple(dataclasses.replace(c, state=rest.get(c.state, c.state)) for c in calls)


def ended(calls: Sequence[ReplyCall]) -> tuple[ReplyCall, ...]:
    """The calls of a copy, in which nothing waits to be run any more."""
    states: dict[CallState, CallState] = {
        "asked": "skipped", "approved": "skipped", "running": "interrupted"
    }  # fmt: skip
    return tuple(dataclasses.replace(c, state=states.get(c.state, c.state)) for c in calls)


def written(calls: Sequence[ReplyCall]) -> str:
    """The calls as the store has them."""
    return json.dumps([dataclasses.asdict(call) for call in calls], ensure_ascii=False)


def calls_of(text: str) -> tuple[ReplyCall, ...]:
    """What `written` wrote."""
    return tuple(ReplyCall(**one) for one in json.loads(text))


def moved(calls: Sequence[ReplyCall], old: str, new: str) -> tuple[ReplyCall, ...]:
    """The calls in the text `new`, which somebody made of `old`.

    What stands before or after all that was changed stays where it is; a call in between stays
    at the end of its line.
    """
    shorter = min(len(old), len(new))
    same = next((i for i in range(shorter) if old[i] != new[i]), shorter)
    after = next((i for i in range(shorter - same) if old[-1 - i] != new[-1 - i]), shorter - same)
    return tuple(
        dataclasses.replace(call, at=_moved(call.at, old, new, (same, after))) for call in calls
    )


def _moved(at: int, old: str, new: str, unchanged: tuple[int, int]) -> int:
    """Where `at` is now; `unchanged` are so many characters at the beginning and at the end."""
    first, last = unchanged[0], len(new) - unchanged[1]
    if at <= first:
        return at
    if at >= len(old) - unchanged[1]:
        return at + len(new) - len(old)
    if old[at : at + 1] != "\n":
        return first
    lines = new.split("\n")[: old.count("\n", 0, at) + 1]
    return min(max(first, len("\n".join(lines))), last)


def tail_of(text: str, calls: Sequence[ReplyCall]) -> str:
    """What stands after the last call, which the model goes on with; all where there is none."""
    return text[calls[-1].at :].strip() if calls else text


def messages_of(text: str, calls: Sequence[ReplyCall], like: Message) -> Iterator[Message]:
    """A reply with calls as the messages that a chat template knows; pins and sources as in `like`.

    The last one, if it is text, is as it stands, so that it can be gone on with.
    """
    start = 0
    for _, together in groupby(calls, key=lambda call: call.round):
        made = list(together)
        end = max(start, made[-1].at)
        said = dataclasses.replace(
            like, role="assistant", content=text[start:end].strip(), tool_calls=_asked(made)
        )
        yield said
        for call in made:
            yield dataclasses.replace(
                like, role="tool", content=call.told, tool_calls=(), call_id=call.id
            )
        start = end
    if text[start:].strip():
        yield dataclasses.replace(like, role="assistant", content=text[start:].lstrip())


def _asked(calls: Iterable[ReplyCall]) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(call.id, call.name, call.arguments) for call in calls)
