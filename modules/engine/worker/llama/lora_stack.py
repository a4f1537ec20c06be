"""`LoraStack`: all plain LoRAs that are loaded as one pair of matrices for each product.

The ranks of all adapters lie one after the other, and how much of each a row takes is a number
for each of them: y += (x Aᵀ * weights) B. So rows with any mixes share one small kernel a product
(kernels/low_rank.py; three in plain torch), and a captured step serves every mix; it is captured
anew only when the set of adapters changes. What is more than low rank (DoRA, whole weights,
embeddings) goes through `RowMixes`.

The idea of one product for many adapters: https://arxiv.org/abs/2310.18547 (Punica).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from modules.engine.mix import Mix
from modules.engine.worker.kernels.low_rank import (
    CHUNK,
    LowRankKernels,
    StackedRanks,
    in_lanes,
)
from modules.engine.worker.kernels.product import LowRank, Norm
from modules.engine.worker.kernels.rows import HeadShape
from modules.engine.worker.llama.order import gate_up_order, qkv_order

__all__ = ["LoraStack", "Pair", "StackedMixes", "StackedProduct"]

MOST_RANK = 256
"""Of all adapters together: every row computes every rank, its own or not."""

Pair = tuple[Tensor, Tensor]
"""A [rank, in] and B [out, rank], with the scaling in B."""


@dataclass(frozen=True, slots=True)
class StackedProduct:
    """A product of the model, for which adapters are stacked.

    `places` are the modules that it computes, by name, with their outputs; `order` int64 [out]
    is the order of its own outputs among theirs, None where they follow each other.
    """

    name: str
    places: tuple[tuple[str, int], ...]
    order: Tensor | None = None

    @classmethod
    def qkv(cls, layer: str, heads: HeadShape) -> StackedProduct:
        """Queries, keys and values of a layer."""
        sizes = (heads.heads * heads.head_dim, *(heads.kv_heads * heads.head_dim,) * 2)
        places = tuple(
            (f"{layer}.self_attn.{part}_proj", size)
            for part, size in zip("qkv", sizes, strict=True)
        )
        return cls(f"{layer}.qkv", places, qkv_order(heads) if heads.paired else None)

    @classmethod
    def gate_up(cls, layer: str, middle: int, paired: bool) -> StackedProduct:
        """Gate and up of a layer."""
        places = tuple((f"{layer}.mlp.{part}_proj", middle) for part in ("gate", "up"))
        return cls(f"{layer}.gate_up", places, gate_up_order(middle) if paired else None)

    @classmethod
    def single(cls, place: str, size: int) -> StackedProduct:
        """One module by itself."""
        return cls(place, ((place, size),))


@dataclass(frozen=True, slots=True, eq=False)
class _Stacked:
    """`a` [ranks, in], `b` [ranks, out] in the order of the product; `owners` say whose rank each
    is, by number, and `index` again, as int64 [ranks]. `ranks` are the same for kernels."""

    a: Tensor
    b: Tensor
    owners: tuple[int, ...]
    index: Tensor
    ranks: StackedRanks | None


class LoraStack:
    """The LoRAs `names` over the products of a model."""

    def __init__(
        self,
        adapters: Mapping[str, Mapping[str, Pair]],
        products: Iterable[StackedProduct],
        like: Tensor,
        rows: int,
        kernels: LowRankKernels | None = None,
    ) -> None:
        """`adapters` are low-rank pairs by name and place. Tensors have the dtype and the device
        of `like`; steps have `rows` rows at most. With `kernels` products can add on the way."""
        self.names = tuple(adapters)
        self._numbers = {name: number for number, name in enumerate(self.names)}
        self._like = like
        self.kernels = kernels
        self._written: tuple[Mix, ...] = ()
        self.weights = like.new_zeros(rows, len(self.names))
        laid = kernels is not None
        made = ((p.name, _stacked(p, tuple(adapters.values()), like, laid)) for p in products)
        self._stacked = {name: stacked for name, stacked in made if stacked is not None}

    @staticmethod
    def chosen(adapters: Mapping[str, Mapping[str, Pair]]) -> dict[str, Mapping[str, Pair]]:
        """The first of `adapters` whose ranks together are few enough."""
        chosen: dict[str, Mapping[str, Pair]] = {}
        left = MOST_RANK
        for name, places in adapters.items():
            left -= max(len(a) for a, _ in places.values())
            if left < 0:
                break
            chosen[name] = places
        return chosen

    def covers(self, mixes: Iterable[Mix]) -> bool:
        """Whether all adapters of these mixes are in it."""
        return all(name in self._numbers for mix in set(mixes) for name, _ in mix)

    def write(self, mixes: Sequence[Mix]) -> None:
        """Let `weights` [rows, adapters] be those of a step whose rows have these mixes."""
        if (wanted := tuple(mixes)) != self._written:
            table = torch.zeros(self.weights.shape)
            table[: len(mixes)] = self._table(mixes)
            self.weights.copy_(table)
            self._written = wanted

    def first(self, rows: int) -> StackedMixes:
        """For the first rows of the step that was written, or will be when a graph runs."""
        return StackedMixes(self, self.weights[:rows])

    def uniform(self, mix: Mix) -> StackedMixes:
        """For any number of rows that all have one mix."""
        return StackedMixes(self, self._table([mix]).to(self._like))

    def of(self, name: str) -> _Stacked | None:
        """What the adapters add to a product; None where they add nothing."""
        return self._stacked.get(name)

    def _table(self, mixes: Sequence[Mix]) -> Tensor:
        table = torch.zeros(len(mixes), len(self.names))
        for row, mix in enumerate(mixes):
            for name, weight in mix:
                table[row, self._numbers[name]] = weight
        return table


class StackedMixes:
    """What a stack adds in one forward. `weights` is [rows, adapters], or [1, adapters] for all."""

    def __init__(self, stack: LoraStack, weights: Tensor) -> None:
        self._stack = stack
        self._weights = weights
        self.fuses = stack.kernels is not None
        # By whose the ranks are: the same for the products of all layers, mostly.
        self._masks: dict[tuple[int, ...], Tensor] = {}

    def low_rank(self, place: str, x: Tensor, norm: Norm | None = None) -> LowRank | None:
        """What the product called `place`, of x [rows, in] or of norm(x), has to add on the way.

        Only where it `fuses`. None where adapters add nothing.
        """
        stacked, kernels = self._stack.of(place), self._stack.kernels
        if stacked is None or stacked.ranks is None or kernels is None:
            return None
        return kernels.shrink(x, stacked.ranks, self._weights, norm)

    def add(self, place: str, x: Tensor, output: Tensor) -> None:
        """Add to the output [rows, out] of the product called `place`, whose input was x."""
        stacked = self._stack.of(place)
        if stacked is None:
            return
        mask = self._masks.get(stacked.owners)
        if mask is None:
            mask = self._masks[stacked.owners] = self._weights.index_select(1, stacked.index)
        output.addmm_(functional.linear(x, stacked.a).mul_(mask), stacked.b)

    def add_to_qkv(self, name: str, heads: HeadShape, x: Tensor, qkv: Tensor) -> None:
        """Add to queries, keys and values, one tensor, of the layer `name`."""
        self.add(f"{name}.qkv", x, qkv)

    def add_to_gate_up(self, name: str, paired: bool, x: Tensor, gate_up: Tensor) -> None:
        """Add to gate and up, one tensor, of the layer `name`."""
        self.add(f"{name}.gate_up", x, gate_up)


def _stacked(
    product: StackedProduct, adapters: Sequence[Mapping[str, Pair]], like: Tensor, laid: bool
) -> _Stacked | None:
    """The ranks of all adapters for one product; `laid` also as kernels want them."""
    outputs = sum(size for _, size in product.places)
    all_a: list[Tensor] = []
    all_b: list[Tensor] = []
    owners: list[int] = []
    for number, places in enumerate(adapters):
        first = 0
        for place, size in product.places:
            if place in places:
                a, b = places[place]
                wide = b.new_zeros(len(a), outputs)
                wide[:, first : first + size] = b.T
                all_a.append(a)
                all_b.append(wide)
                owners += [number] * len(a)
            first += size
    if not owners:
        return None
    if laid and (short := -len(owners) % CHUNK):
        all_a.append(all_a[0].new_zeros(short, all_a[0].shape[1]))
        all_b.append(all_b[0].new_zeros(short, outputs))
        owners += [0] * short
    a = torch.cat([part.to(like) for part in all_a])
    b = torch.cat([part.to(like) for part in all_b])
    if product.order is not None:
        b = b[:, product.order.to(b.device)]
    index = torch.tensor(owners, device=like.device)
    ranks = None
    if laid and outputs % 16 == 0 and a.shape[1] % 8 == 0:
        ranks = StackedRanks(a, in_lanes(b), index.int())
    return _Stacked(a, b.contiguous(), tuple(owners), index, ranks)
