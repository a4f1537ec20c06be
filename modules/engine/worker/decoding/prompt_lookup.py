"""`PromptLookup`: what came after the same words before may come again, and is cheap to check."""

from __future__ import annotations

import time
from collections.abc import Callable

from torch import Tensor

from modules.engine.worker.decoding.method import Drawn, Method
from modules.engine.worker.runner import Runner
from modules.engine.worker.sequence import Sequence

__all__ = ["PromptLookup"]

_LONGEST = 16
"""Tokens of a match that count."""

_PLACES = 64
"""The latest places that are looked at."""

_DRAFTED = 3
"""Tokens that each token of the match is good for."""

_FIRST_CREDIT, _MOST_CREDIT, _REGAINED = 1.0, 4.0, 0.01
_NEW = 0.2
"""How much the latest measurement of a time counts."""

DrawTogether = Callable[[Tensor], list[int]]
"""From logits [n, vocab] of places that follow each other to the token that is drawn at each."""


class PromptLookup(Method):
    """Drafts what followed the longest match of the last tokens, and computes it in one forward.

    Each position is drawn by the request's own sampler, in order, for as long as it draws
    what was drafted: the reply is the one that it would be without, up to the rounding of products
    with several rows. At least two tokens have to match. A draft costs as much credit as it takes
    longer than a token (in tokens, as measured in this reply, and one at least), and each token of
    it that holds earns one. Who is in debt regains a hundredth with each token, so that text that
    never repeats costs little. With `draw_together` all places are drawn at once, for samplers
    that do not look back; what is drawn behind a wrong one is dropped.
    Source: https://github.com/apoorvumang/prompt-lookup-decoding
    """

    def __init__(self, seq: Sequence, runner: Runner) -> None:
        super().__init__(seq, runner)
        self._most = seq.sampler.params.prompt_lookup_num_tokens
        self._places: dict[tuple[int, int], list[int]] = {}
        """For two tokens, where what follows them begins."""
        self._indexed = 2
        self._draft: list[int] = []
        self._credit = _FIRST_CREDIT
        self._cost: float | None = None
        """Of a draft, in tokens; the first one is on trust."""
        self._token_s: float | None = None
        self._turn: float | None = None
        """When the last turn began, if it was one without a draft."""
        self.draw_together: DrawTogether | None = None

    def pauses(self) -> bool:
        """Whether there may be a draft, once the token that is under way is known."""
        self._begin_turn()
        return self._can_pay and bool(self._drafted())

    def alone(self) -> bool:
        """Whether there is a draft."""
        self._begin_turn()
        self._draft = self._drafted() if self._can_pay else []
        return bool(self._draft)

    def step(self) -> list[Drawn]:
        """As many tokens as the draft holds, and the one after them."""
        seq, drawn, began = self.seq, list[Drawn](), time.perf_counter()
        ids = list(seq.token_ids)
        rows = self.runner.extend(seq, [ids[-1], *self._draft])
        tokens = None if self.draw_together is None else self.draw_together(rows)
        for place, (row, expected) in enumerate(zip(rows, [*self._draft, None], strict=True)):
            token_id = seq.sampler.sample(row, ids) if tokens is None else tokens[place]
            drawn.append(self.drawn(token_id, row))
            if token_id != expected or token_id in seq.end_ids:
                break
            ids.append(token_id)
        if seq.row is not None:
            seq.row.drawn += len(drawn)
        self.runner.rewind(seq, len(ids))
        self._pay(time.perf_counter() - began, len(drawn) - 1)
        return drawn

    @property
    def _can_pay(self) -> bool:
        return self._credit > 0

    def _begin_turn(self) -> None:
        """Regain credit, and note how long the last turn took."""
        self._credit = min(self._credit + _REGAINED, _MOST_CREDIT)
        now = time.perf_counter()
        if self._turn is not None:
            self._token_s = _smoothed(self._token_s, now - self._turn)
        self._turn = now

    def _pay(self, seconds: float, held: int) -> None:
        """For a draft that took so long, and of which so many tokens held."""
        if self._token_s:
            self._cost = _smoothed(self._cost, max(seconds / self._token_s - 1, 1.0))
        self._credit += held - (1.0 if self._cost is None else self._cost)
        self._turn = None

    def _drafted(self) -> list[int]:
        ids = self.seq.token_ids
        # The two last tokens are not indexed yet, so that they do not find themselves.
        for end in range(self._indexed, len(ids)):
            self._places.setdefault((ids[end - 2], ids[end - 1]), []).append(end)
        self._indexed = max(self._indexed, len(ids))
        places = self._places.get((ids[-2], ids[-1]), []) if len(ids) > 1 else []
        if not places:
            return []
        # Of equally long matches the latest.
        begin = max(places[-_PLACES:], key=lambda end: (self._match(end), end))
        # One token is drawn after the draft.
        room = self.seq.max_tokens - len(ids) - 1
        count = min(self._most, _DRAFTED * self._match(begin), room)
        draft: list[int] = []
        for place in range(begin, begin + count):
            # What comes after the end of all repeats itself again.
            draft.append(ids[place] if place < len(ids) else draft[place - len(ids)])
        return draft

    def _match(self, end: int) -> int:
        """How many tokens before `end` are those at the end of all, up to a limit."""
        ids = self.seq.token_ids
        most = min(end, _LONGEST)
        return next((n for n in range(most) if ids[end - 1 - n] != ids[-1 - n]), most)


def _smoothed(before: float | None, latest: float) -> float:
    return latest if before is None else before + _NEW * (latest - before)
