"""`ContextView`: what goes into the next request, piece by piece, with tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from modules.chat.attachments import Attachment, AttachmentStore
from modules.chat.cast import Cast
from modules.chat.prompt import ChatPrompt, loaded_model, usable_context
from modules.chat.store import Chat, ChatStore, StoredMessage
from modules.engine.client import EngineClient
from modules.engine.params import SamplingParams
from modules.errors import PromptTooLongError

__all__ = ["ContextView", "Piece", "Segment", "pieces_of", "view_context"]

Kind = Literal["character", "system", "tools", "file", "user", "assistant", "call"]

_LABEL_CHARS = 90


@dataclass(frozen=True, slots=True)
class Piece:
    """A text that the user knows. `message` is the id of the stored message that it is in.

    Of a file and a tool, `label` is the name; of everything else, its first words.
    """

    kind: Kind
    text: str
    label: str = ""
    message: int = 0
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece with its tokens; one that is not `kept` is left out."""

    kind: Kind
    label: str
    message: int
    pinned: bool
    tokens: int
    kept: bool


@dataclass(frozen=True, slots=True)
class ContextView:
    """What the next request has. Numbers are tokens.

    `tokens` are those of the prompt, of which `template` belong to no segment: the marks of
    turns, mostly. `sentence` says what the user should know before sending.
    """

    segments: list[Segment]
    tokens: int
    template: int
    context: int
    sentence: str

    @property
    def free(self) -> int:
        """What is left for the reply."""
        return max(0, self.context - self.tokens)


def pieces_of(store: ChatStore, chat: Chat, cast: Cast, text: str) -> list[Piece]:
    """What the next request is made of once `text` is sent, before anything is left out."""
    files = AttachmentStore(store)
    branch, waiting = store.branch(chat.id), files.waiting(chat.id)
    texts = files.texts([*(file for stored in branch for file in stored.attachments), *waiting])
    pieces = [Piece("character", cast.context), Piece("system", chat.system)]
    if cast.tools:
        described = "\n".join(json.dumps(tool.as_variable()) for tool in cast.tools)
        pieces.append(Piece("tools", described, ", ".join(tool.name for tool in cast.tools)))
    for stored in branch:
        pieces += _files(stored.attachments, texts, stored)
        pieces += [
            Piece("call", f"{call.arguments}\n{call.told}", call.name, stored.id, stored.pinned)
            for call in stored.calls
        ]
        pieces.append(Piece(stored.role, stored.content, "", stored.id, stored.pinned))
    pieces += [*_files(waiting, texts), Piece("user", text)]
    return pieces


async def view_context(
    engine: EngineClient,
    pieces: Sequence[Piece],
    params: SamplingParams,
    prompt: ChatPrompt | PromptTooLongError,
) -> ContextView:
    """The pieces beside the prompt that they become, or why they become none.

    Raises NoModelError and EngineError.
    """
    context = usable_context(loaded_model(engine), params)
    pieces = [piece for piece in pieces if piece.text.strip()]
    counts = await engine.count_tokens([piece.text for piece in pieces])
    if isinstance(prompt, ChatPrompt):
        left_out, sentence, tokens = prompt.left_out, prompt.sentence, prompt.tokens
    else:
        left_out, sentence, tokens = frozenset[int](), str(prompt), sum(counts)
    segments = [
        Segment(
            piece.kind,
            piece.label or _first_words(piece.text),
            piece.message,
            piece.pinned,
            count,
            piece.message not in left_out,
        )
        for piece, count in zip(pieces, counts, strict=True)
    ]
    template = tokens - sum(segment.tokens for segment in segments if segment.kept)
    return ContextView(segments, tokens, max(0, template), context, sentence)


def _files(
    files: Sequence[Attachment], texts: dict[int, str], stored: StoredMessage | None = None
) -> list[Piece]:
    message, pinned = (stored.id, stored.pinned) if stored else (0, False)
    return [
        Piece("file", texts[file.id], file.name, message, pinned)
        for file in files
        if file.id in texts
    ]


def _first_words(text: str) -> str:
    line = " ".join(text[: 4 * _LABEL_CHARS].split())
    return line if len(line) <= _LABEL_CHARS else f"{line[:_LABEL_CHARS].rsplit(' ', 1)[0]}…"
