"""Which tokens of an example are learnt: the loss mask.

A conversation is rendered by the chat template as a whole, once with its replies and once with
a word of ours in the place of each reply. Where that word lands is where the reply stands, so
that the mask needs no knowledge of the template, and a template that alters a reply (as those
that drop earlier reasoning do) is found out instead of being learnt wrongly.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from modules.chat.messages import Message
from modules.errors import DatasetError
from modules.training.examples import Example

__all__ = ["Learn", "Marked", "Masked", "Tokenizer", "mark", "mask"]

Learn = Literal["replies", "last reply", "everything"]

Render = Callable[[Sequence[Message]], str]
"""From messages to the whole text, without a generation prompt. Raises TemplateError."""

_WORD = "LanternReply"


class Tokenizer(Protocol):
    """What is asked of a tokenizer."""

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids of a text, no special token added, and where each begins and ends in it."""
        ...


@dataclass(frozen=True, slots=True)
class Marked:
    """A text as the model reads it, and the stretches of characters that it learns."""

    text: str
    learnt: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Masked:
    """Token ids, and whether each of them is learnt."""

    ids: tuple[int, ...]
    learnt: tuple[bool, ...]


def mark(example: Example, render: Render, learn: Learn = "replies") -> Marked:
    """The text of an example, with what of it is learnt.

    Plain text is learnt as a whole. Raises DatasetError for a conversation whose replies the
    template alters or leaves out, and TemplateError.
    """
    if not example.messages:
        return Marked(example.text, ((0, len(example.text)),))
    text = render(example.messages)
    if learn == "everything":
        return Marked(text, ((0, len(text)),))
    return Marked(text, tuple(_places(example, text, render, last=learn == "last reply")))


def _places(example: Example, text: str, render: Render, *, last: bool) -> list[tuple[int, int]]:
    """Where each reply stands in `text`, or the last one alone."""
    said = [i for i, m in enumerate(example.messages) if m.role == "assistant"]
    said = said[-1:] if last else said
    words = dict(zip(said, _words(example.messages, len(said)), strict=True))
    stand_in = [
        Message("assistant", words[i]) if i in words else m for i, m in enumerate(example.messages)
    ]
    frame = render(stand_in)
    replies = [example.messages[i].content for i in said]
    found = _match(text, frame, replies, list(words.values()))
    if found is None:
        raise DatasetError(
            "The chat template does not show every reply as it is written.",
            "Learn the last reply alone, or choose another template.",
        )
    return found


def _match(
    text: str, frame: str, replies: Sequence[str], words: Sequence[str]
) -> list[tuple[int, int]] | None:
    """Where the replies stand in `text`, if it is `frame` with them in the place of the words."""
    first, *parts = re.split("|".join(words), frame)
    if len(parts) != len(replies) or not text.startswith(first):
        return None
    places: list[tuple[int, int]] = []
    start = len(first)
    for reply, after in zip(replies, parts, strict=True):
        # Many templates trim a reply. What follows it decides, for they may put spaces there
        # that look like its own.
        shown = next(
            (
                said
                for said in (reply, reply.strip(), reply.rstrip(), reply.lstrip())
                if text.startswith(said, start) and text.startswith(after, start + len(said))
            ),
            None,
        )
        if shown is None:
            return None
        places.append((start, start + len(shown)))
        start += len(shown) + len(after)
    return places if start == len(text) else None


def _words(messages: Sequence[Message], count: int) -> list[str]:
    """As many words that occur in no message, none within another."""
    word = _WORD
    while any(word in m.content for m in messages):
        word += "Indeed"
    return [f"{word}{i}End" for i in range(count)]


def mask(marked: Marked, tokenizer: Tokenizer, ends: Collection[int]) -> Masked:
    """The tokens of a text, and which are learnt: those that hold a character of a stretch.

    `ends` are the tokens that end a turn. One that follows a learnt stretch, white space at
    most between them, is learnt as well: without it a model never learns to stop.
    """
    ids, offsets = tokenizer.encode(marked.text)
    learnt = [False] * len(ids)
    stretches = iter(marked.learnt)
    start, end = next(stretches, (0, 0))
    for i, (begin, stop) in enumerate(offsets):
        while start < end <= begin:
            _learn_end(i, ids, offsets, learnt, (marked.text, end, ends))
            start, end = next(stretches, (0, 0))
        learnt[i] = learnt[i] or (begin < end and stop > start)
    return Masked(tuple(ids), tuple(learnt))


def _learn_end(
    first: int,
    ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    learnt: list[bool],
    after: tuple[str, int, Collection[int]],
) -> None:
    """Mark the token that ends the turn, if it is next after the stretch that ended."""
    text, end, ends = after
    for i in range(first, len(ids)):
        if text[end : offsets[i][0]].strip():
            return
        if ids[i] in ends:
            learnt[first : i + 1] = [True] * (i + 1 - first)
            return
