"""`Field`: the tokens that are still in question, for some rows of a decode step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["CANDIDATES", "Field", "Step"]

CANDIDATES = 256
"""Tokens that are left in question after top k, of which the page allows 200. The rest is room
for those as likely as the last. It is one number, so that what a row keeps does not depend on
the k of its neighbours."""


@dataclass(slots=True)
class Field:
    """Scores [n, width] in float32, whose columns stand for tokens.

    At first the columns are the vocabulary. After top k they are `ids` [n, width], in
    ascending order, and what follows is cheap. After `sort` the scores ascend, and `order`
    [n, width] tells at which place each column was; equal ones keep their order, as in the
    chain of a single request. `learners` are told the token ids [n] that were drawn.
    """

    scores: Tensor
    ids: Tensor | None = None
    order: Tensor | None = None
    sorted: bool = False
    learners: list[Callable[[Tensor], None]] = field(default_factory=list)

    def columns(self) -> Tensor | None:
        """The token id [n, width] of each column; None if they are the vocabulary in order."""
        if self.ids is None or self.order is None:
            return self.order if self.ids is None else self.ids
        return self.ids.gather(1, self.order)

    def at(self, table: Tensor) -> Tensor:
        """The entries of `table` [n, vocab] that belong to the columns."""
        columns = self.columns()
        return table if columns is None else table.gather(1, columns)

    def change(self, scores: Tensor) -> None:
        """Take new scores, in whatever order."""
        self.scores, self.sorted = scores, False

    def cut(self, dropped: Tensor) -> None:
        """Rule out the lowest scores of each row, so that sorted ones stay sorted."""
        self.scores = self.scores.masked_fill(dropped, -torch.inf)

    def sort(self) -> None:
        """Put the columns into the order of their scores, unless they are in it already."""
        if self.sorted:
            return
        self.scores, order = self.scores.sort(dim=-1, stable=True)
        self.order = order if self.order is None else self.order.gather(1, order)
        self.sorted = True

    def narrow(self) -> Tensor:
        """Keep the highest columns alone; returns their scores in descending order."""
        width = min(CANDIDATES, self.scores.shape[-1])
        columns = self.columns()
        if self.sorted:
            highest = self.scores[:, -width:].flip(-1)
            places = torch.arange(self.scores.shape[-1] - 1, -1, -1, device=highest.device)
            places = places[:width].expand_as(highest)
        else:
            highest, places = self.scores.topk(width, dim=-1)
        kept = places if columns is None else columns.gather(1, places)
        self.ids, ranks = kept.sort(dim=-1)
        self.scores, self.order, self.sorted = highest.gather(1, ranks), None, False
        return highest

    def in_order(self) -> Tensor:
        """The scores with the columns in the order of their token ids, which is that of `ids`."""
        if self.order is None:
            return self.scores
        return torch.empty_like(self.scores).scatter_(1, self.order, self.scores)


Step = Callable[[Field], None]
"""What a sampling parameter does to a field."""
