"""`prepare`: all rows of a config as tokens with a loss mask, mixed and split, and their lint."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.errors import DatasetError
from modules.training.config import DatasetSource, TrainingConfig
from modules.training.encoding import Encoder, Ready
from modules.training.lint import Lint, Linter, Print, fingerprint
from modules.training.packing import Waste
from modules.training.rows import Problem
from modules.training.sources import DataFolders, file_hash, read_source, source_files
from modules.training.stored import RowStore, StoredRows

__all__ = ["DataFolders", "Prepared", "SourceFile", "batching_waste", "prepare"]

Progress = Callable[[str, float], None]
"""Told a stage in words, and how much of it is done, from 0 to 1."""

_TOLD_EVERY = 1_000


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that rows came from: its name, sha256, and the rows of it that can be learnt."""

    name: str
    sha256: str
    rows: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run trains on.

    `train` are rows in the order of one epoch (shuffle their places, not them), mixed by weight;
    `places` say of each where it stands. `real_tokens` and `learnt_tokens` are those of one
    epoch, `longest` the tokens of its longest row. `template` says which template and why.
    """

    train: StoredRows
    evaluation: StoredRows
    places: list[str]
    lint: Lint
    real_tokens: int
    learnt_tokens: int
    longest: int
    sources: tuple[SourceFile, ...]
    template: str


def prepare(
    config: TrainingConfig, base: Path, folders: DataFolders, progress: Progress | None = None
) -> Prepared:
    """Read, render, tokenize and mask the rows of `config`, for the model in the folder `base`.

    The same config and files give the same rows in the same order. Raises DatasetError, which
    names the file and the row, where there is nothing to learn; ModelError for a base without
    a readable tokenizer; InvalidInputError and TemplateError for the chat template.
    """
    if not config.datasets:
        raise DatasetError("There is no dataset to train on.", "Choose a file or folder.")
    encoder = Encoder(config, base)
    reading = _Reading(config, encoder, folders, progress or (lambda stage, share: None))
    counts = [reading.read(source) for source in config.datasets]
    if config.eval_datasets:
        first = len(reading.store)
        for source in config.eval_datasets:
            reading.read(source)
        kept: list[Sequence[int]] = [range(a, b) for a, b in counts]
        held = [*range(first, len(reading.store))]
    else:
        kept, held = _split(config, counts, reading.raw)
    order = _mix(config, kept)
    train, evaluation = StoredRows(reading.store, order), StoredRows(reading.store, held)
    for share in kept:
        for place in share:
            reading.linter.train(reading.prints[place])
    for place in held:
        reading.linter.evaluation(reading.prints[place])
    if encoder.finding:
        reading.linter.add("overlap", encoder.finding)
    lengths = train.lengths
    return Prepared(
        train=train,
        evaluation=evaluation,
        places=[reading.prints[place].place for place in order],
        lint=reading.linter.result(),
        real_tokens=sum(lengths),
        learnt_tokens=train.learnt,
        longest=max(lengths),
        sources=tuple(reading.files),
        template=f"{encoder.chat.key}: {encoder.chat.reason}",
    )


class _Reading:
    """The rows that were read so far, of all sources."""

    def __init__(
        self, config: TrainingConfig, encoder: Encoder, folders: DataFolders, progress: Progress
    ) -> None:
        self._config = config
        self._encoder = encoder
        self._folders = folders
        self._progress = progress
        self.store = RowStore()
        self.linter = Linter()
        self.prints: list[Print] = []
        self.raw = bytearray()
        self.files: list[SourceFile] = []

    def read(self, source: DatasetSource) -> tuple[int, int]:
        """Read one source; returns the first place of its rows, and that behind the last."""
        first = len(self.store)
        problem: Problem | None = None
        for file in source_files(source, self._folders):
            before = len(self.store)
            for ready in self._rows(source, file):
                left_out = ready if isinstance(ready, Problem) else ready.left_out
                if left_out is not None:
                    problem = problem or left_out
                    self.linter.problem(left_out)
                elif isinstance(ready, Ready):
                    self._keep(ready)
            self.files.append(SourceFile(file.name, file_hash(file), len(self.store) - before))
        if len(self.store) == first:
            raise _nothing_learnt(source, problem)
        return first, len(self.store)

    def _rows(self, source: DatasetSource, file: Path) -> Iterator[Ready | Problem]:
        size, seen = max(1, file.stat().st_size), 0
        rows = self._encoder.encode(read_source(source, file, self._folders))
        for count, ready in enumerate(rows):
            if count % _TOLD_EVERY == 0:  # characters are about as many as bytes
                told = f"{file.name}: {count:,} rows read"
                self._progress(told, min(1.0, seen / size))
            seen += len(ready.text) if isinstance(ready, Ready) else 0
            yield ready
        self._progress(f"{file.name}: read", 1.0)

    def _keep(self, ready: Ready) -> None:
        self.store.add(ready.masked)
        self.prints.append(fingerprint(ready.example))
        self.raw.append(ready.raw)
        self.linter.length(ready.example.place, ready.length, self._config.cutoff_len)


def _nothing_learnt(source: DatasetSource, problem: Problem | None) -> DatasetError:
    """The error for a source of which no row can be learnt, with the first of its problems."""
    if problem is None:
        return DatasetError(f"{source.path} holds no rows.", "Choose another dataset.")
    return DatasetError(
        f"No row of {source.path} can be learnt. The first, {problem.file}, "
        f"row {problem.number:,}: {problem.sentence}",
        "Choose another dataset, or say how its columns are to be read.",
    )


def _split(
    config: TrainingConfig, counts: Sequence[tuple[int, int]], raw: bytearray
) -> tuple[list[Sequence[int]], list[int]]:
    """The places to train on by source, and those to evaluate on.

    Of conversations any may be taken. Pieces of a text overlap, so that its last ones are.
    """
    held: set[int] = set()
    chance = random.Random(f"{config.seed} evaluation")  # noqa: S311 - no secret
    for first, last in counts:
        rows = [place for place in range(first, last) if not raw[place]]
        pieces = [place for place in range(first, last) if raw[place]]
        if config.eval_split:
            held |= set(chance.sample(rows, _share(config.eval_split, len(rows))))
            held |= set(pieces[len(pieces) - _share(config.eval_split, len(pieces)) :])
    kept = [[place for place in range(a, b) if place not in held] for a, b in counts]
    if config.eval_split and not held:
        raise DatasetError(
            "There are too few rows to keep some apart.", "Add rows, or set eval_split to 0."
        )
    return list(kept), sorted(held)


def _share(share: float, count: int) -> int:
    """A share of some rows: one at least, but never all."""
    return min(max(1, round(share * count)), max(0, count - 1))


def _mix(config: TrainingConfig, kept: Sequence[Sequence[int]]) -> list[int]:
    """The places of one epoch: each source as often as its weight says, evenly spread."""
    ordered: list[tuple[float, int, int]] = []
    for number, (source, places) in enumerate(zip(config.datasets, kept, strict=True)):
        chance = random.Random(f"{config.seed} source {number}")  # noqa: S311 - no secret
        whole, part = divmod(source.weight * len(places), max(1, len(places)))
        chosen = [*places] * int(whole)
        rest = min(len(places), max(round(part), not chosen))  # one row at least
        chosen += sorted(chance.sample(list(places), rest))
        ordered += [((i + 0.5) / len(chosen), number, p) for i, p in enumerate(chosen)]
    return [place for _, _, place in sorted(ordered)]


def batching_waste(lengths: Sequence[int], config: TrainingConfig) -> Mapping[str, Waste]:
    """What batches of rows with these lengths would compute, by each way of making them.

    Packed rows have no padding between or behind them. A micro batch of 0, which the memory
    plan decides later, counts as 4.
    """
    size = config.micro_batch_size or 4
    real = sum(lengths)

    def padded(rows: Sequence[int]) -> Waste:
        batches = [rows[i : i + size] for i in range(0, len(rows), size)]
        return Waste(sum(len(batch) * max(batch) for batch in batches), real)

    return {
        "packed": Waste(real, real),
        "sorted": padded(sorted(lengths)),
        "padded": padded(lengths),
    }
