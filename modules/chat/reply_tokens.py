"""How likely each token of a reply was: kept beside it, where hooks want to know.

It stands in a table of its own, since it is a hundred times as long as the text, and is read
only for the replies that somebody looks at.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from modules.chat.database import Database, storable
from modules.engine.protocol import TokenLogprob

__all__ = ["Part", "ReplyToken", "aligned", "inherit_tokens", "keep_tokens", "tokens_of"]

_NEAR = 3
"""Characters that a tokenizer may have left out before a token: a space, mostly."""
_FAR = 400
"""Characters that may be between a token of some length and the one before it, as after a call."""
_SURE = 4


@dataclass(frozen=True, slots=True)
class ReplyToken:
    """One token: its text, its probability from 0 to 1, and those that were likeliest."""

    text: str
    probability: float
    alternatives: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a reply's text; of some nothing is known, a beginning of the user's, say."""

    text: str
    token: ReplyToken | None = None


def keep_tokens(
    store: Database, message_id: int, start: int, tokens: Iterable[TokenLogprob]
) -> None:
    """Write down the tokens of a reply, or of the next part of one, from the character `start`."""
    rows = [
        [one.text, _probability(one.logprob), [[text, _probability(lp)] for text, lp in one.top]]
        for one in tokens
    ]
    with store.transaction() as db:
        db.execute(
            "INSERT INTO reply_tokens (message_id, start, tokens) VALUES (?, ?, ?)",
            (message_id, start, storable(json.dumps(rows, ensure_ascii=False))),
        )


def tokens_of(store: Database, message_id: int) -> list[tuple[int, list[ReplyToken]]]:
    """What was written down of a reply, each part with the character where it starts."""
    with store.reading() as db:
        rows = db.execute(
            "SELECT start, tokens FROM reply_tokens WHERE message_id = ? ORDER BY id",
            (message_id,),
        ).fetchall()
    return [
        (
            row["start"],
            [
                ReplyToken(text, chance, tuple((other, its) for other, its in top))
                for text, chance, top in json.loads(row["tokens"])
            ],
        )
        for row in rows
    ]


def inherit_tokens(db: sqlite3.Connection, old: int, new: int) -> None:
    """Give a copy of a message what is known of its tokens, within a transaction."""
    db.execute(
        "INSERT INTO reply_tokens (message_id, start, tokens)"
        " SELECT ?, start, tokens FROM reply_tokens WHERE message_id = ? ORDER BY id",
        (new, old),
    )


def aligned(content: str, kept: Sequence[tuple[int, Sequence[ReplyToken]]]) -> list[Part]:
    """All of `content`, piece by piece, with the token that each piece is.

    A token whose text is not where it should be (the end token, a part of a character) has none.
    """
    parts: list[Part] = []
    at = 0
    for start, tokens in kept:
        at = _add_gap(parts, content, at, max(at, start))
        for token in tokens:
            reach = len(token.text) + (_FAR if len(token.text) >= _SURE else _NEAR)
            place = content.find(token.text, at, at + reach) if token.text else -1
            if place >= 0:
                _add_gap(parts, content, at, place)
                parts.append(Part(token.text, token))
                at = place + len(token.text)
    _add_gap(parts, content, at, len(content))
    return parts


def _add_gap(parts: list[Part], content: str, at: int, to: int) -> int:
    if to > at:
        parts.append(Part(content[at:to]))
    return to


def _probability(logprob: float) -> float:
    return round(math.exp(min(0.0, logprob)), 5) if math.isfinite(logprob) else 0.0
