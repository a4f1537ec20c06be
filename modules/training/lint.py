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

__all__ = ["Finding", "Lint", "Linter", "Print", "fingerprint", "lint"]

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


@dataclass(frozen=True, slots=True)
class Print:
    """What is remembered of a row to find it again: fingerprints of all of it, and of what its
    last reply answers (empty for plain text)."""

    place: str
    said: bytes
    asked: bytes = b""


def fingerprint(example: Example) -> Print:
    """The print of an example; case and white space do not count."""
    return Print(example.place, _said(example), _question(example) if example.messages else b"")


class Linter:
    """Looks at rows one after another, and keeps nothing of their text."""

    def __init__(self) -> None:
        self._found: dict[str, Finding] = {}
        self._first: dict[bytes, str] = {}
        self._asked: dict[bytes, str] = {}
        self._examples = 0

    def add(self, kind: str, sentence: str) -> None:
        """Count a fault."""
        self._found.setdefault(kind, Finding(kind)).add(sentence)

    def problem(self, problem: Problem) -> None:
        """A row that is left out."""
        self.add(problem.kind, f"{problem.file}, row {problem.number:,}: {problem.sentence}")

    def length(self, place: str, length: int, cutoff: int) -> None:
        """The tokens of a row; those above `cutoff`, if there is one, are lost."""
        if cutoff and length > cutoff:
            self.add("truncated", f"{place} has {length:,} tokens and loses {length - cutoff:,}.")

    def train(self, row: Print) -> None:
        """A row to train on."""
        self._examples += 1
        before = self._first.setdefault(row.said, row.place)
        if before != row.place:
            self.add("duplicate", f"{row.place} is the same as {before}.")
        elif row.asked:
            other = self._asked.setdefault(row.asked, row.place)
            if other != row.place:
                self.add("two answers", f"{row.place} answers {other} in another way.")

    def evaluation(self, row: Print) -> None:
        """A row to evaluate on; those to train on were seen before."""
        if (place := self._first.get(row.said)) is not None:
            self.add("leaked", f"{row.place}, to evaluate on, is {place}, to train on.")

    def result(self) -> Lint:
        """What was found."""
        ranked = sorted(self._found.values(), key=lambda f: -f.count)
        return Lint(self._examples, tuple(ranked))


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
    linter = Linter()
    for problem in problems:
        linter.problem(problem)
    for example in examples:
        linter.train(fingerprint(example))
    for example in evaluation:
        linter.evaluation(fingerprint(example))
    for example, length in zip(examples, lengths, strict=False):
        linter.length(example.place, length, cutoff)
    return linter.result()


def _said(example: Example) -> bytes:
    """A fingerprint of all that an example says."""
    return _hash([example.text, *_parts(example.messages)])


def _question(example: Example) -> bytes:
    """A fingerprint of what the last reply answers."""
    return _hash(_parts(example.messages[:-1]))


def _parts(messages: Sequence[Message]) -> list[str]:
    return [part for m in messages for part in (m.role, m.content)]


def _hash(parts: list[str]) -> bytes:
    text = "\0".join(" ".join(part.lower().split()) for part in parts)
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=12).digest()
