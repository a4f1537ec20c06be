"""What the page shows of a dataset before a run: any row as it is trained on, and its lint.

Of large sets the first rows are looked at, and it is said so.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.errors import DatasetError, NotFoundError
from modules.training.config import DatasetSource, TrainingConfig
from modules.training.dataset import batching_waste
from modules.training.encoding import Encoder, Ready
from modules.training.lint import Lint, Linter, fingerprint
from modules.training.packing import Waste
from modules.training.rows import Problem
from modules.training.sources import DataFolders, Item, read_source, source_files
from modules.training.tokenizer import FileTokenizer

__all__ = ["SAMPLE", "Preview", "Survey", "preview", "survey"]

SAMPLE = 2_000
"""Rows that are looked at."""
_PIECES = 100
"""Pieces of raw text behind the one that is shown, which are made to be counted."""
_TOKENS = 500_000
"""Tokens after which a survey has seen enough."""


@dataclass(frozen=True, slots=True)
class Preview:
    """One row: `text` as the model reads it, and each token with whether it is learnt.

    `left_out` says why the row is not trained on, and is empty where it is. `total_rows` were
    counted; `complete` is false where the dataset has more, which can be shown as well.
    `template` is empty for plain text.
    """

    place: str
    text: str
    tokens: list[tuple[str, bool]]
    total_rows: int
    complete: bool
    left_out: str = ""
    template: str = ""


@dataclass(frozen=True, slots=True)
class Survey:
    """What the first rows of a dataset are like; `complete` where these are all.

    `looked_at` counts also those that are left out, `rows` those that can be trained on;
    `tokens` are those that are trained on, `learnt` those of them that are learnt, `waste` is
    what each way of batching would compute for them.
    """

    lint: Lint
    looked_at: int
    rows: int
    complete: bool
    tokens: int
    learnt: int
    longest: int
    waste: Mapping[str, Waste]
    template: str


def preview(
    config: TrainingConfig,
    base: Path,
    folders: DataFolders,
    index: int,
    tokenizer: FileTokenizer | None = None,
) -> Preview:
    """The row at `index`, counted from 0, of the sets to train on, in the order of their files.

    `tokenizer` is that of `base`, where somebody has it already. Raises what `prepare` raises,
    and NotFoundError for an index beyond the rows.
    """
    encoder = Encoder(config, base, tokenizer)
    shown: Ready | Problem | None = None
    count, complete = 0, True
    for item in _items(config.datasets, folders):
        if count > index and count >= SAMPLE:
            complete = False
            break
        if not isinstance(item, Item) or not item.raw:
            if count == index:
                shown = next(encoder.encode([item]))
            count += 1
            continue
        for piece in encoder.encode([item]):  # only by making them they are counted
            if count > index + _PIECES:
                complete = False
                break
            shown = piece if count == index else shown
            count += 1
    if not count:
        names = ", ".join(source.path for source in config.datasets)
        raise DatasetError(f"There are no rows in {names[:300]}.", "Choose another dataset.")
    if shown is None:
        raise NotFoundError(f"There is no row {index + 1:,}.", f"There are {count:,}.")
    return _preview(encoder, shown, count, complete)


def survey(
    config: TrainingConfig,
    base: Path,
    folders: DataFolders,
    tokenizer: FileTokenizer | None = None,
) -> Survey:
    """Look at the first rows of a config, and whether they are evaluated on as well.

    Raises what `prepare` raises, but for sets of which nothing is learnt: those say why in
    their lint.
    """
    encoder = Encoder(config, base, tokenizer)
    linter = Linter()
    lengths: list[int] = []
    looked_at, learnt, tokens, complete = 0, 0, 0, True
    for ready in encoder.encode(_items(config.datasets, folders)):
        if looked_at >= SAMPLE or tokens >= _TOKENS:
            complete = False
            break
        looked_at += 1
        left_out = ready if isinstance(ready, Problem) else ready.left_out
        if left_out is not None:
            linter.problem(left_out)
        elif isinstance(ready, Ready):
            linter.train(fingerprint(ready.example))
            linter.length(ready.example.place, ready.length, config.cutoff_len)
            lengths.append(len(ready.masked.ids))
            tokens += len(ready.masked.ids)
            learnt += sum(ready.masked.learnt)
    if config.eval_datasets:
        for item in itertools.islice(_items(config.eval_datasets, folders), SAMPLE):
            if isinstance(item, Item):
                linter.evaluation(fingerprint(item.example))
    if encoder.finding:
        linter.add("overlap", encoder.finding)
    return Survey(
        lint=linter.result(),
        looked_at=looked_at,
        rows=len(lengths),
        complete=complete,
        tokens=tokens,
        learnt=learnt,
        longest=max(lengths, default=0),
        waste=batching_waste(lengths, config),
        template=f"{encoder.chat.key}: {encoder.chat.reason}",
    )


def _items(sources: Sequence[DatasetSource], folders: DataFolders) -> Iterator[Item | Problem]:
    """The rows of all sources, one file after another."""
    if not sources:
        raise DatasetError("There is no dataset to train on.", "Choose a file or folder.")
    for source in sources:
        for file in source_files(source, folders):
            yield from read_source(source, file, folders)


def _preview(encoder: Encoder, shown: Ready | Problem, total: int, complete: bool) -> Preview:
    template = f"{encoder.chat.key}: {encoder.chat.reason}"
    if isinstance(shown, Problem):
        place = f"{shown.file}, row {shown.number:,}"
        return Preview(place, "", [], total, complete, shown.sentence, template)
    pieces = encoder.tokenizer.pieces(shown.text, shown.encoded)
    # A row whose first token would be learnt shows what the trainer does: it is not.
    learnt = [i > 0 and learnt for i, learnt in enumerate(shown.masked.learnt)]
    return Preview(
        place=shown.example.place,
        text=shown.text,
        tokens=list(zip(pieces, learnt, strict=True)),
        total_rows=total,
        complete=complete,
        left_out=shown.left_out.sentence if shown.left_out else "",
        template=template if shown.example.messages else "",
    )
