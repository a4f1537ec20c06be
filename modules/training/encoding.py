"""From rows to tokens with a loss mask, in batches: what the trainer gets and a preview shows."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from modules.errors import DatasetError, TemplateError
from modules.training.config import TrainingConfig
from modules.training.examples import Example
from modules.training.masking import Learn, Marked, Masked, mark, mask
from modules.training.packing import cut
from modules.training.raw_text import Cutting, Piece, cut_text
from modules.training.rows import Problem, Row
from modules.training.sources import Item
from modules.training.templates import chat_format
from modules.training.tokenizer import Encoded, FileTokenizer

__all__ = ["Encoder", "Ready"]

_BATCH = 256
"""Rows that are tokenized at once, on all cores."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A row as it is trained on.

    `length` are its tokens before it was cut; `left_out` says why it is not trained on after
    all, as a `Problem`, or is None. `encoded` has the offsets of the tokens in `text`. `raw`
    pieces follow one another in a file.
    """

    row: Row
    example: Example
    text: str
    masked: Masked
    length: int
    left_out: Problem | None = None
    raw: bool = False
    encoded: Encoded = field(default=([], []), repr=False)


class Encoder:
    """Turns items into rows of tokens, as one config wants them for one base model.

    Raises ModelError for a base without a readable tokenizer, InvalidInputError for an unknown
    template, and TemplateError for a damaged one. For one thread at a time.
    """

    def __init__(
        self, config: TrainingConfig, base: Path, tokenizer: FileTokenizer | None = None
    ) -> None:
        """`tokenizer` is that of `base`, where somebody has it already."""
        self.tokenizer = tokenizer or FileTokenizer(base)
        self.chat = chat_format(config, self.tokenizer, base)
        self._config = config
        self._cutting = Cutting.of(config, self.tokenizer)
        self._has_cut = False

    @property
    def finding(self) -> str:
        """What is to be said of the overlap, once raw text was cut; else empty."""
        return self._cutting.finding if self._has_cut else ""

    def encode(self, items: Iterable[Item | Problem]) -> Iterator[Ready | Problem]:
        """The rows that items make, in their order; problems pass through."""
        items = iter(items)
        while batch := list(itertools.islice(items, _BATCH)):
            yield from self._encode(batch)

    def _encode(self, batch: Sequence[Item | Problem]) -> Iterator[Ready | Problem]:
        marked = [self._marked(item) for item in batch]
        texts = [one.text for one in marked if isinstance(one, Marked)]
        encoded = iter(self.tokenizer.encode_batch(texts))
        for item, one in zip(batch, marked, strict=True):
            if isinstance(item, Problem):
                yield item
            elif isinstance(one, Problem):
                yield one
            elif one is None:
                yield from self._pieces(item)
            else:
                yield self._ready(item, one, next(encoded))

    def _marked(self, item: Item | Problem) -> Marked | Problem | None:
        """The text of an item; None for raw text, which is tokenized block by block."""
        if isinstance(item, Problem):
            return item
        if item.raw:
            return None
        row = item.row
        try:
            learn = cast(Learn, self._config.learn)
            marked = item.marked or self.chat.with_ends(mark(item.example, self.chat.render, learn))
            if item.marked is not None and learn == "everything":
                marked = Marked(marked.text, ((0, len(marked.text)),))
            marked.text.encode()
        except UnicodeEncodeError:
            told = "The row holds half of a character (a lone surrogate)."
            return Problem(row.file, row.number, "characters", told)
        except (DatasetError, TemplateError) as error:
            return Problem(row.file, row.number, "template", str(error))
        return marked

    def _ready(self, item: Item, marked: Marked, encoded: Encoded) -> Ready:
        masked = mask(marked, _Encoded(encoded), self.chat.ends)
        if not item.example.messages or item.marked is not None:
            masked, encoded = self._with_ends(marked, masked, encoded)
        length = len(masked.ids)
        longest = self._config.cutoff_len
        masked = cut(masked, longest)
        ready = Ready(item.row, item.example, marked.text, masked, length)
        ids, offsets = encoded
        ready = replace(ready, encoded=(ids[:longest], offsets[:longest]))
        return replace(ready, left_out=self._reason(ready))

    def _with_ends(
        self, marked: Marked, masked: Masked, encoded: Encoded
    ) -> tuple[Masked, Encoded]:
        """Plain text with its beginning and end token, unless they are written out in it."""
        ids, offsets = [*masked.ids], encoded[1]
        learnt = [*masked.learnt]
        bos, eos = self._cutting.bos, self._cutting.eos
        if bos is not None and ids[:1] != [bos]:
            ids, learnt, offsets = [bos, *ids], [False, *learnt], [(0, 0), *offsets]
        if eos is not None and ids[-1:] != [eos]:
            end = len(marked.text)
            ids, learnt, offsets = [*ids, eos], [*learnt, True], [*offsets, (end, end)]
        return Masked(tuple(ids), tuple(learnt)), (ids, offsets)

    def _reason(self, ready: Ready) -> Problem | None:
        longest = self._config.cutoff_len
        file, number = ready.row.file, ready.row.number
        if ready.length > longest and self._config.overlong == "drop":
            told = f"The row has {ready.length:,} tokens, more than {longest:,}."
            return Problem(file, number, "too long", told)
        # The first token of a row is never learnt: nothing stands before it.
        if not any(ready.masked.learnt[1:]):
            told = "Nothing of the row is learnt."
            if ready.length > longest:
                told = f"All that is learnt of the row comes after its first {longest:,} tokens."
            return Problem(file, number, "nothing learnt", told)
        return None

    def _pieces(self, item: Item) -> Iterator[Ready | Problem]:
        row, count = item.row, 0
        for count, piece in enumerate(
            cut_text(item.example.text, self.tokenizer, self._cutting), start=1
        ):
            self._has_cut = self._has_cut or count > 1
            yield self._piece(row, count, piece)
        if not count:
            told = "The text has no block of enough characters."
            yield Problem(row.file, row.number, "empty", told)

    def _piece(self, row: Row, number: int, piece: Piece) -> Ready:
        placed = Row(row.file, number, {})
        example = Example(f"{row.file}, piece {number:,}", text=piece.text)
        encoded = ([*piece.masked.ids], piece.offsets)
        length = len(piece.masked.ids)
        return Ready(placed, example, piece.text, piece.masked, length, raw=True, encoded=encoded)


class _Encoded:
    """A tokenizer that has done its work: `mask` asks for one text, and it came in a batch."""

    def __init__(self, encoded: Encoded) -> None:
        self._encoded = encoded

    def encode(self, text: str) -> Encoded:
        """What was found before."""
        return self._encoded
