"""The rounds of a reply that calls tools: written, asked about, run, and gone on with.

A reply is one message, whatever it calls. Where a call needs to be asked about, the reply rests
as it is in the store, without a task, until the owner has decided about each of its calls; so
a reload or a restart changes nothing.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from modules.chat.messages import Message
from modules.chat.replies import LiveReply
from modules.chat.store import Chat
from modules.chat.tool_calls import CallReader
from modules.chat.tool_prompt import Tool
from modules.chat.tools.call import CallState, ReplyCall
from modules.chat.tools.desk import ToolDesk
from modules.chat.tools.toolbox import Offer

__all__ = ["MOST_ROUNDS", "Writing", "write_rounds"]

MOST_ROUNDS = 8
"""After as many rounds of calls, a reply is no longer offered tools, and has to end."""

_MOST_CALLS = 8
_CHARS_PER_TOKEN = 2


@dataclass(frozen=True, slots=True)
class Writing:
    """How a reply is written: what streams the engine's text into it, and what stores it.

    `keep` stores it as it is and raises StorageError where that fails, `history` reads what is
    stored, `context` is how many tokens the model has.
    """

    stream: Callable[[], Awaitable[Literal["complete", "stopped"]]]
    keep: Callable[[], Awaitable[None]]
    history: Callable[[], Awaitable[list[Message]]]
    context: Callable[[], int]


async def write_rounds(
    live: LiveReply, chat: Chat, desk: ToolDesk, writing: Writing
) -> Literal["complete", "stopped"]:
    """Write `live` until it ends, or until a call must be asked about.

    Raises what `writing` raises; `live` holds what came before.
    """
    offer = await desk.ready(chat)
    _note(live, offer)
    while True:
        await _run(live, desk, writing)
        if live.calls:
            live.history = await writing.history()
        number = max((call.round for call in live.calls), default=0) + 1
        tools = offer.tools if number <= MOST_ROUNDS else ()
        live.cast = dataclasses.replace(live.cast, tools=tools)
        live.reader = _reader(tools) if tools else None
        state = await _written(live, writing, number)
        new = [call for call in live.calls if call.round == number]
        if state == "stopped":
            _change(live, new, "skipped")
        if state == "stopped" or not new:
            return state
        names = [tool.name for tool in tools]
        unknown = [call for call in new if call.name not in names]
        allowed = [c for c in new if c.name in names and desk.is_allowed(chat, c.name)]
        _change(live, unknown, "failed", f"There is no such tool. There are: {', '.join(names)}.")
        _change(live, allowed, "approved")
        await writing.keep()
        if any(call.state == "asked" for call in live.calls):
            return "complete"


def _note(live: LiveReply, offer: Offer) -> None:
    """Write down which tools a reply was offered, and which it was not."""
    for key, said in (("tools", [t.name for t in offer.tools]), ("tool_faults", offer.faults)):
        live.about.pop(key, None)
        if said:
            live.about[key] = list(said)


def _reader(tools: Sequence[Tool]) -> CallReader:
    """Finds calls; that of a tool which is not there is answered, so that the model may learn."""
    return CallReader([tool.name for tool in tools], _MOST_CALLS, any_name=True)


async def _written(
    live: LiveReply, writing: Writing, number: int
) -> Literal["complete", "stopped"]:
    """One round of text, and the calls at its end."""
    first = {"prompt": live.about["prompt"]} if "prompt" in live.about else {}
    if live.calls and not live.tail and live.text.strip():
        live.text = f"{live.text.rstrip()}\n\n"
    live.begin_round(uuid.uuid4().hex)
    try:
        state = await writing.stream()
    finally:
        live.requested = False
        if live.reader is not None:
            live.text += live.reader.finish()
            made, live.reader = live.reader.calls, None
            if made or live.calls:
                live.text = live.text.rstrip()
            live.calls += tuple(
                ReplyCall(call.id, call.name, call.arguments, len(live.text), number)
                for call in made
            )
    if number > 1:
        # A replay begins as the reply did, and draws by one seed from there to its end.
        live.about |= first
    live.params = live.params.replace(seed=live.about.get("seed", live.params.seed))
    return "stopped" if live.stopping else state


async def _run(live: LiveReply, desk: ToolDesk, writing: Writing) -> None:
    """Run the approved calls, one after another; each step is stored before the next."""
    for call in live.calls:
        if call.state != "approved":
            continue
        _change(live, [call], "running")
        await writing.keep()
        answer = await desk.box.call(call.name, call.arguments)
        text = _fitting(answer.text, writing.context())
        _change(live, [call], "failed" if answer.failed else "done", text)
        await writing.keep()


def _fitting(text: str, context: int) -> str:
    """A result that leaves the model room to say something about it."""
    most = _CHARS_PER_TOKEN * context
    if len(text) <= most or not context:
        return text
    return f"{text[:most]}\n… (cut to fit the context: {len(text):,} characters in all)"


def _change(live: LiveReply, calls: list[ReplyCall], state: CallState, result: str = "") -> None:
    ids = {call.id for call in calls}
    live.calls = tuple(
        dataclasses.replace(c, state=state, result=result) if c.id in ids else c for c in live.calls
    )
