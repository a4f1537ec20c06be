"""`RowMixes`: what LoRAs add, where the rows of one forward may have different ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from modules.engine.mix import Mix
from modules.engine.worker.adapters import Adapters
from modules.engine.worker.kernels.rows import HeadShape
from modules.engine.worker.llama.order import gate_up_order, qkv_order

__all__ = ["Mixes", "RowMixes"]


class Mixes(Protocol):
    """What LoRAs add in one forward. None stands for it where no row has any."""

    def add(self, place: str, x: Tensor, output: Tensor) -> None:
        """Add to the output [rows, out] of the module at `place`, whose input was x."""
        ...

    def add_to_qkv(self, name: str, heads: HeadShape, x: Tensor, qkv: Tensor) -> None:
        """Add to queries, keys and values, one tensor, of the layer `name`."""
        ...

    def add_to_gate_up(self, name: str, paired: bool, x: Tensor, gate_up: Tensor) -> None:
        """Add to gate and up, one tensor, of the layer `name`."""
        ...


class RowMixes:
    """Which rows have which mix; for adapters of every kind, each by itself."""

    def __init__(self, adapters: Adapters, groups: Iterable[tuple[Mix, Tensor | None]]) -> None:
        """`groups` are mixes with the indices of their rows [n], None for all rows."""
        self._adapters = adapters
        self._groups = tuple(groups)
        # A copy to the card cannot be captured; the forward before a capture makes these.
        self._orders: dict[tuple[int, ...], Tensor] = {}

    @classmethod
    def of(cls, adapters: Adapters, mixes: Sequence[Mix], device: torch.device) -> RowMixes | None:
        """For rows with these mixes."""
        different = [mix for mix in dict.fromkeys(mixes) if mix]
        if not different:
            return None
        if len(different) == 1 and all(mixes):
            return cls(adapters, [(different[0], None)])
        rows = {mix: [i for i, other in enumerate(mixes) if other == mix] for mix in different}
        return cls(
            adapters, [(mix, torch.tensor(found, device=device)) for mix, found in rows.items()]
        )

    def add(self, place: str, x: Tensor, output: Tensor) -> None:
        """Add to the output [rows, out] of the module at `place`, whose input was x."""
        for mix, rows in self._groups:
            if not self._adapters.changes(place, mix):
                continue
            if rows is None:
                output.copy_(self._adapters.added(place, mix, x, output))
            else:
                part = self._adapters.added(place, mix, x[rows], output[rows])
                output.index_copy_(0, rows, part)

    def add_to_qkv(self, name: str, heads: HeadShape, x: Tensor, qkv: Tensor) -> None:
        """Add to queries, keys and values, one tensor, of the layer `name`."""
        sizes = (heads.heads * heads.head_dim, *(heads.kv_heads * heads.head_dim,) * 2)
        order = None
        if heads.paired:
            key = (heads.heads, heads.kv_heads, heads.head_dim)
            order = self._order(key, qkv, lambda: qkv_order(heads))
        places = [f"{name}.self_attn.{part}_proj" for part in "qkv"]
        self._add_to_parts(places, sizes, order, x, qkv)

    def add_to_gate_up(self, name: str, paired: bool, x: Tensor, gate_up: Tensor) -> None:
        """Add to gate and up, one tensor, of the layer `name`."""
        middle = gate_up.shape[-1] // 2
        order = None
        if paired:
            order = self._order((middle,), gate_up, lambda: gate_up_order(middle))
        places = [f"{name}.mlp.{part}_proj" for part in ("gate", "up")]
        self._add_to_parts(places, (middle, middle), order, x, gate_up)

    def _add_to_parts(
        self,
        places: Sequence[str],
        sizes: Sequence[int],
        order: Tensor | None,
        x: Tensor,
        fused: Tensor,
    ) -> None:
        mixes = [mix for mix, _ in self._groups]
        if not any(self._adapters.changes(place, mix) for place in places for mix in mixes):
            return
        if order is None:
            plain = fused
        else:
            plain = torch.empty_like(fused)
            plain[:, order] = fused
        for place, part in zip(places, torch.split(plain, list(sizes), dim=-1), strict=True):
            self.add(place, x, part)
        if order is not None:
            torch.index_select(plain, 1, order, out=fused)

    def _order(self, key: tuple[int, ...], like: Tensor, make: Callable[[], Tensor]) -> Tensor:
        found = self._orders.get(key)
        if found is None:
            found = self._orders[key] = make().to(like.device)
        return found
