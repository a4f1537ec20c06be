"""`Lint`: what is wrong with a dataset, counted by kind, with the rows that show it.

Nothing here decides what is trained on: rows that cannot be read are left out before, and of
duplicates and leaks people are told.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from modules.chat.messages import Message
from modules.training.examples import Example
from modules.training.rows import Problem

__all__ = ["Finding", "Lint", "lint"]

_SHOWN = 20
"""Rows that are named for each kind; the others are counted."""


@dataclass(slots=True)
class Finding:
    """One kind of fault: how many rows have it, and the first of them with a sentence each."""

    kind: str
    count: int = 0
    rows: list[str] = field(default_factory=list)

    def add(self, sentence: str) -> None:
        """Count one more row."""
        self.count += 1
        if len(self.rows) < _SHOWN:
            self.rows.append(sentence)


@dataclass(frozen=True, slots=True)
class Lint:
    """What was found in `examples` usable rows, the most frequent fault first."""

    examples: int
    findings: tuple[Finding, ...]

    def count(self, kind: str) -> int:
        """Rows with a fault of this kind."""
        return next((f.count for f in self.findings if f.kind == kind), 0)


def lint(
    examples: Sequence[Example],
    problems: Iterable[Problem] = (),
    evaluation: Sequence[Example] = (),
    lengths: Sequence[int] = (),
    cutoff: int = 0,
) -> Lint:
    """Look at the rows to train on, and at those to evaluate on.

    `lengths` are the tokens of each of `examples`; those above `cutoff` lose their end.
    """
    found: dict[str, Finding] = {}

    def add(kind: str, sentence: str) -> None:
        found.setdefault(kind, Finding(kind)).add(sentence)

    for problem in problems:
        add(problem.kind, f"{problem.file}, row {problem.number:,}: {problem.sentence}")
    first: dict[bytes, str] = {}
    asked: dict[bytes, str] = {}
    for example in examples:
        before = first.setdefault(_said(example), example.place)
        if before != example.place:
            add("duplicate", f"{example.place} is the same as {before}.")
        elif example.messages:
            other = asked.setdefault(_question(example), example.place)
            if other != example.place:
                add("two answers", f"{example.place} answers {other} in another way.")
    for example in evaluation:
        if (place := first.get(_said(example))) is not None:
            add("leaked", f"{example.place}, to evaluate on, is {place}, to train on.")
    for example, length in zip(examples, lengths, strict=False):
        if cutoff and length > cutoff:
            add(
                "truncated", f"{example.place} has {length:,} tokens and loses {length - cutoff:,}."
            )
    ranked = sorted(found.values(), key=lambda f: -f.count)
    return Lint(len(examples), tuple(ranked))


def _said(example: Example) -> bytes:
    """A fingerprint of all that an example says; case and white space do not count."""
    return _fingerprint([example.text, *_parts(example.messages)])


def _question(example: Example) -> bytes:
    """A fingerprint of what the last reply answers."""
    return _fingerprint(_parts(example.messages[:-1]))


def _parts(messages: Sequence[Message]) -> list[str]:
    return [part for m in messages for part in (m.role, m.content)]


def _fingerprint(parts: list[str]) -> bytes:
    text = "\0".join(" ".join(part.lower().split()) for part in parts)
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=12).digest()
