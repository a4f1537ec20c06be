"""Long text cut into rows of one length, with some overlap and, where it may be, at line breaks.

Each token is learnt once: those that a piece shares with the one before it are there to be
looked back on. Text between two hard cuts is a text of its own, which begins with the beginning
token, if the model has one, and ends with the end token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from modules.training.config import TrainingConfig
from modules.training.masking import Masked
from modules.training.tokenizer import FileTokenizer

__all__ = ["Cutting", "Piece", "cut_text"]

_WINDOW = 1_000_000
"""Characters that are tokenized at once; a window ends at a line break, if there is one."""


@dataclass(frozen=True, slots=True)
class Cutting:
    """How text is cut. Lengths in tokens but for `newline` and `min_chars`, in characters."""

    length: int
    overlap: int = 0
    newline: int = 0
    hard_cut: str = ""
    min_chars: int = 0
    bos: int | None = None
    eos: int | None = None

    @classmethod
    def of(cls, config: TrainingConfig, tokenizer: FileTokenizer) -> Cutting:
        """What a config says about it."""
        return cls(
            length=config.cutoff_len,
            overlap=config.overlap_len,
            newline=config.newline_favor_len,
            hard_cut=config.hard_cut_string.replace("\\n", "\n"),
            min_chars=config.min_chars,
            bos=tokenizer.bos,
            eos=tokenizer.eos if config.add_eos else None,
        )

    @property
    def room(self) -> int:
        """Tokens of text in a piece."""
        return self.length - (self.bos is not None)

    @property
    def shared(self) -> int:
        """The overlap as it is: half a piece at most, or it would hold next to nothing new."""
        return min(self.overlap, self.room // 2)

    @property
    def finding(self) -> str:
        """A sentence where the overlap is less than was asked for; else empty."""
        if self.shared == self.overlap:
            return ""
        return (
            f"Pieces of {self.length:,} tokens overlap by {self.shared:,} instead of "
            f"{self.overlap:,}: by half at most."
        )


@dataclass(frozen=True, slots=True)
class Piece:
    """A row of raw text."""

    text: str
    masked: Masked
    offsets: list[tuple[int, int]] = field(repr=False)
    """Where each token stands in `text`; the beginning and end tokens have no width."""


def cut_text(text: str, tokenizer: FileTokenizer, cutting: Cutting) -> Iterator[Piece]:
    """The pieces of a text, none longer than `cutting.length` tokens.

    Two neighbouring windows of a million characters are tokenized apart, so that where one
    ends, a token may be another than in the whole text.
    """
    blocks = text.split(cutting.hard_cut) if cutting.hard_cut else [text]
    for block in blocks:
        size = len(block.strip())
        if size and size >= cutting.min_chars:
            yield from _Block(block, tokenizer, cutting).pieces()


class _Block:
    """One text on its way into pieces; tokens that no piece will need again are let go."""

    def __init__(self, text: str, tokenizer: FileTokenizer, cutting: Cutting) -> None:
        self._text = text
        self._tokenizer = tokenizer
        self._cutting = cutting
        self._ids: list[int] = []
        self._offsets: list[tuple[int, int]] = []
        self._room = cutting.room
        self._overlap = cutting.shared

    def pieces(self) -> Iterator[Piece]:
        start, fresh = 0, 0
        for begin, end in self._windows():
            ids, offsets = self._tokenizer.encode(self._text[begin:end])
            self._ids += ids
            self._offsets += [(a + begin, b + begin) for a, b in offsets]
            last = end == len(self._text)
            while len(self._ids) - start + (self._cutting.eos is not None) > self._room and (
                last or len(self._ids) - start > self._room
            ):
                stop = self._stop(start, fresh)
                yield self._piece(start, fresh, stop)
                start, fresh = self._start(stop, fresh), stop
            del self._ids[:start], self._offsets[:start]
            start, fresh = 0, fresh - start
        if len(self._ids) > fresh:
            yield self._piece(start, fresh, len(self._ids), self._cutting.eos)

    def _windows(self) -> Iterator[tuple[int, int]]:
        begin = 0
        while begin < len(self._text):
            end = begin + _WINDOW
            if end < len(self._text):
                found = self._text.rfind("\n", begin + 1, end)
                end = found + 1 if found > 0 else end
            end = min(end, len(self._text))
            yield begin, end
            begin = end

    def _stop(self, start: int, fresh: int) -> int:
        """Where the piece from `start` ends: as late as it can, at a line break if one is near."""
        most = min(start + self._room, len(self._ids) - 1)
        at = self._offsets[most - 1][1]
        for stop in range(most, max(fresh, start + self._overlap) + 1, -1):
            end = self._offsets[stop - 1][1]
            if at - end > self._cutting.newline:
                break
            if self._text[end - 1 : end] == "\n":
                return stop
        return most

    def _start(self, stop: int, fresh: int) -> int:
        """Where the piece after one that ends at `stop` begins: `overlap` tokens earlier.

        A line break within them is taken instead, if it is near.
        """
        earliest = max(stop - self._overlap, fresh + 1, 0)
        at = self._offsets[earliest][0] if earliest < stop else 0
        for start in range(earliest, stop):
            begin = self._offsets[start][0]
            if begin - at > self._cutting.newline:
                break
            if self._text[begin - 1 : begin] == "\n":
                return start
        return min(earliest, stop)

    def _piece(self, start: int, fresh: int, stop: int, eos: int | None = None) -> Piece:
        ids, offsets = self._ids[start:stop], self._offsets[start:stop]
        learnt = [place >= fresh for place in range(start, stop)]
        first, last = offsets[0][0], max(end for _, end in offsets)
        shifted = [(a - first, b - first) for a, b in offsets]
        if self._cutting.bos is not None:
            ids, learnt, shifted = [self._cutting.bos, *ids], [False, *learnt], [(0, 0), *shifted]
        if eos is not None:
            ids, learnt = [*ids, eos], [*learnt, True]
            shifted = [*shifted, (last - first, last - first)]
        return Piece(self._text[first:last], Masked(tuple(ids), tuple(learnt)), shifted)
