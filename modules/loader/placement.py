"""Which unit of a model goes to which device: in order, whole, and evenly over the cards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

__all__ = ["Cost", "Layout", "Place", "fill", "spread"]

_ENDLESS = 2**60


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes of one unit: `held` wherever it lies, `cache` where it is computed.

    `piece` is its biggest tensor: what a device that computes it from a store takes at a time.
    """

    held: int
    cache: int
    piece: int = 0

    @property
    def both(self) -> int:
        """On a card, which computes what it holds."""
        return self.held + self.cache


@dataclass(frozen=True, slots=True)
class Place:
    """A device: `capacity` bytes may be used of it, and a workspace goes off that first.

    `workspace` is that of a part of the model, `alone` that of the whole, which may be computed
    in another way.
    """

    device: str
    name: str
    capacity: int
    workspace: int
    alone: int

    @property
    def room(self) -> int:
        """What is left for weights and caches of a part of the model."""
        return self.capacity - self.workspace

    @property
    def room_alone(self) -> int:
        """What is left for weights and caches of the whole model."""
        return self.capacity - self.alone


@dataclass(frozen=True, slots=True)
class Layout:
    """The devices that compute, the stores that only hold, and how to use them."""

    computing: tuple[Place, ...]
    stores: tuple[Place, ...]

    @property
    def places(self) -> tuple[Place, ...]:
        """All of them, as `place` numbers them."""
        return self.computing + self.stores

    def place(self, costs: Sequence[Cost]) -> list[int] | None:
        """The number of a place for each unit: one device for all if one is enough, else
        evenly over the devices, else what they hold, and the others in the stores.
        """
        whole = sum(cost.both for cost in costs)
        for number, place in enumerate(self.computing):
            if whole <= place.room_alone:
                return [number] * len(costs)
        # A card that another program has filled takes no part.
        biggest = max(cost.both for cost in costs)
        used = [n for n, place in enumerate(self.computing) if place.room >= biggest]
        rooms = [self.computing[number].room for number in used]
        found = spread(costs, rooms)
        if found is not None and len(set(found)) == 1:
            found = None  # one device is not enough: its room alone has been tried
        if found is None and self.stores and used:
            found = fill(costs, rooms, [store.room for store in self.stores])
        numbers = used + list(range(len(self.computing), len(self.places)))
        return None if found is None else [numbers[number] for number in found]

    def place_anyhow(self, costs: Sequence[Cost]) -> list[int]:
        """Where the units would be if what does not fit were forced in: for a refusal."""
        if self.stores:
            endless = replace(self.stores[-1], capacity=_ENDLESS)
            found = replace(self, stores=(*self.stores[:-1], endless)).place(costs)
            if found is not None:
                return found
        return spread(costs, [_ENDLESS] * len(self.computing)) or [0] * len(costs)


def spread(costs: Sequence[Cost], rooms: Sequence[int]) -> list[int] | None:
    """The number of a card for each unit, so that the fullest card is as empty as can be.

    `rooms` are the bytes that may be used of each card. None where the cards cannot hold all.
    """
    least, most = 0, max(rooms, default=0)
    if _in_order(costs, rooms) is None:
        return None
    while least < most:
        limit = (least + most) // 2
        if _in_order(costs, [min(room, limit) for room in rooms]) is None:
            least = limit + 1
        else:
            most = limit
    return _in_order(costs, [min(room, most) for room in rooms])


def fill(costs: Sequence[Cost], rooms: Sequence[int], stores: Sequence[int]) -> list[int] | None:
    """As many units on the cards as they hold, and the others in `stores`, in their order.

    What lies in a store is computed by the first card: that card holds its cache, and room
    for the biggest piece of it. Stores have the numbers after the cards. None where not even
    one unit stays on a card, or the stores are too small.
    """
    for count in range(len(costs) - 1, 0, -1):
        elsewhere = sum(cost.cache for cost in costs[count:])
        elsewhere += max(cost.piece for cost in costs[count:])
        on_cards = _in_order(costs[:count], [rooms[0] - elsewhere, *rooms[1:]])
        if on_cards is None:
            continue
        stored = _in_order([Cost(cost.held, 0) for cost in costs[count:]], stores)
        return None if stored is None else on_cards + [len(rooms) + number for number in stored]
    return None


def _in_order(costs: Sequence[Cost], rooms: Sequence[int]) -> list[int] | None:
    """Fill one room after the other; a room that was left is not gone back to."""
    numbers: list[int] = []
    room, used = 0, 0
    for cost in costs:
        while room < len(rooms) and used + cost.both > rooms[room]:
            room, used = room + 1, 0
        if room == len(rooms):
            return None
        used += cost.both
        numbers.append(room)
    return numbers
