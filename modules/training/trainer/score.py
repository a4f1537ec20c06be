"""Held-out prompts: a file of questions, and of what a reply must look like."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.errors import DatasetError
from modules.training.rows import Problem, dataset_files, read_rows
from modules.training.trainer.samples import Responder

__all__ = ["HeldOut", "read_held_out", "score"]

_MOST = 500
_MOST_PATTERN = 2000


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A prompt that is not learnt, and the expression that its reply must hold."""

    prompt: str
    pattern: re.Pattern[str]


def read_held_out(file: Path) -> list[HeldOut]:
    """The rows of a file with the columns `prompt` and `pattern`.

    Raises DatasetError, which names the row, for one that cannot be used.
    """
    found = []
    for part in dataset_files(file):
        for row in read_rows(part):
            if isinstance(row, Problem):
                raise DatasetError(f"{row.file}, row {row.number:,}: {row.sentence}", "Repair it.")
            prompt, pattern = row.fields.get("prompt"), row.fields.get("pattern")
            if not isinstance(prompt, str) or not prompt.strip() or not isinstance(pattern, str):
                raise DatasetError(
                    f"{row.place} has no prompt or no pattern.", 'Give both, as text: "prompt", '
                    '"pattern".'
                )  # fmt: skip
            try:
                if len(pattern) > _MOST_PATTERN:
                    raise re.error("it is too long")
                found.append(HeldOut(prompt, re.compile(pattern)))
            except re.error as error:
                raise DatasetError(
                    f"{row.place}: the pattern is no regular expression: {error}.", "Repair it."
                ) from error
    if not 0 < len(found) <= _MOST:
        raise DatasetError(f"{file.name} has {len(found):,} prompts.", f"Use 1 to {_MOST}.")
    return found


def score(responder: Responder, held_out: Sequence[HeldOut]) -> int:
    """How many of the prompts are answered as they must be."""
    replies = responder.replies([one.prompt for one in held_out])
    return sum(
        one.pattern.search(reply) is not None for one, reply in zip(held_out, replies, strict=True)
    )
