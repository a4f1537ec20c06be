"""The blocks of the paged KV cache: who holds them, and what is known of them."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass

import pytest

from modules.engine.mix import Mix
from modules.engine.worker.llama.blocks import BLOCK, BlockPool, CacheFullError, Table

PIRATE: Mix = (("pirate", 1.0),)


def tokens(count: int, first: int = 0) -> list[int]:
    return list(range(first, first + count))


def computed(pool: BlockPool, ids: list[int], mix: Mix = ()) -> Table:
    """A table whose tokens are all computed and certain."""
    table, _ = pool.start(ids, mix)
    pool.grow(table, len(ids))
    pool.settle(table, ids, len(ids))
    return table


def known(pool: BlockPool, ids: list[int], mix: Mix = ()) -> int:
    """How many tokens a start would find."""
    table, cached = pool.start(ids, mix)
    pool.release(table)
    return cached


def test_a_first_start_finds_nothing_and_takes_nothing() -> None:
    pool = BlockPool(8)
    table, cached = pool.start(tokens(100), ())
    assert (table.blocks, cached, pool.used, pool.free) == ([], 0, 0, 8)


@pytest.mark.parametrize(("length", "blocks"), [(1, 1), (16, 1), (17, 2), (100, 7)])
def test_a_table_grows_by_whole_blocks(length: int, blocks: int) -> None:
    pool = BlockPool(8)
    table, _ = pool.start(tokens(length), ())
    pool.grow(table, length)
    assert len(set(table.blocks)) == blocks == pool.used


def test_growing_to_what_is_held_takes_nothing() -> None:
    pool = BlockPool(8)
    table = computed(pool, tokens(20))
    pool.grow(table, 32)
    pool.grow(table, 5)
    assert len(table.blocks) == pool.used == 2


def test_a_full_pool_says_so_and_changes_nothing() -> None:
    pool = BlockPool(4)
    computed(pool, tokens(40))
    table, _ = pool.start(tokens(5, first=500), ())
    with pytest.raises(CacheFullError, match="2 more blocks of 16 tokens are needed, and 1 are"):
        pool.grow(table, 20)
    assert (table.blocks, pool.free) == ([], 1)


def test_whole_blocks_are_shared_as_soon_as_they_are_settled() -> None:
    pool = BlockPool(8)
    first = computed(pool, tokens(40))
    second, cached = pool.start([*tokens(40), 7, 8], ())
    assert cached == 32
    assert second.blocks == first.blocks[:2]
    assert pool.used == 3


def test_a_block_is_found_in_the_decode_step_that_fills_it() -> None:
    pool = BlockPool(8)
    ids = tokens(30)
    table = computed(pool, ids)
    ids += [30]
    pool.grow(table, 31)
    pool.settle(table, ids, 31)
    assert known(pool, tokens(100)) == 16
    ids += [31]
    pool.grow(table, 32)
    pool.settle(table, ids, 32)
    assert known(pool, tokens(100)) == 32


def test_the_last_token_is_always_left_to_compute() -> None:
    pool = BlockPool(8)
    computed(pool, tokens(32))
    assert known(pool, tokens(32)) == 16
    assert known(pool, tokens(33)) == 32
    assert known(pool, [0]) == 0


def test_tokens_that_are_not_certain_are_not_shared() -> None:
    pool = BlockPool(8)
    table, _ = pool.start(tokens(48), ())
    pool.grow(table, 48)
    pool.settle(table, tokens(48), 31)
    assert known(pool, tokens(48)) == 16


def test_the_same_block_after_another_beginning_is_another() -> None:
    pool = BlockPool(8)
    computed(pool, [*tokens(16, first=100), *tokens(16)])
    assert known(pool, tokens(32)) == 0


def test_a_mix_finds_what_was_computed_with_the_same_alone() -> None:
    pool = BlockPool(8)
    pool.release(computed(pool, tokens(32), PIRATE))
    assert known(pool, tokens(33), PIRATE) == 32
    assert known(pool, tokens(33), (("pirate", 0.5),)) == 0
    assert known(pool, tokens(33)) == 0


def test_a_table_knows_its_mix() -> None:
    table, _ = BlockPool(8).start(tokens(3), PIRATE)
    assert table.mix == PIRATE


def test_what_is_released_is_free_and_stays_known() -> None:
    pool = BlockPool(8)
    table = computed(pool, tokens(40))
    pool.release(table)
    assert (pool.used, pool.free, table.blocks) == (0, 8, [])
    assert known(pool, tokens(40)) == 32


def test_releasing_twice_is_harmless() -> None:
    pool = BlockPool(8)
    table = computed(pool, tokens(40))
    other, _ = pool.start(tokens(40), ())
    pool.release(table)
    pool.release(table)
    assert pool.used == 2
    pool.release(other)
    assert pool.free == 8


def test_empty_blocks_are_taken_before_known_ones() -> None:
    pool = BlockPool(4)
    pool.release(computed(pool, tokens(32)))
    computed(pool, tokens(20, first=100))
    assert known(pool, tokens(33)) == 32


def test_the_least_recently_used_prefix_leaves_first() -> None:
    pool = BlockPool(4)
    pool.release(computed(pool, tokens(32)))
    pool.release(computed(pool, tokens(32, first=100)))
    known(pool, tokens(33))
    computed(pool, tokens(32, first=200))
    assert known(pool, tokens(33)) == 32
    assert known(pool, tokens(33, first=100)) == 0


def test_a_shared_beginning_outlives_what_follows_it() -> None:
    pool = BlockPool(5)
    system = tokens(32)
    for chat in (100, 200, 300):
        pool.release(computed(pool, [*system, *tokens(16, first=chat)]))
    taker, _ = pool.start([7], ())
    pool.grow(taker, 2 * BLOCK)
    assert known(pool, [*system, *tokens(17, first=300)]) == 48
    pool.grow(taker, 3 * BLOCK)
    assert known(pool, [*system, *tokens(17, first=300)]) == 32
    pool.grow(taker, 5 * BLOCK)
    assert known(pool, [*system, 9]) == 0


def test_the_end_of_what_was_rewound_leaves_first() -> None:
    pool = BlockPool(4)
    table = computed(pool, tokens(64))
    pool.rewind(table, 16)
    other, _ = pool.start([7], ())
    pool.grow(other, BLOCK)
    assert known(pool, tokens(65)) == 48


def test_a_block_that_is_held_is_never_taken() -> None:
    pool = BlockPool(4)
    table = computed(pool, tokens(48))
    other, _ = pool.start([7], ())
    pool.grow(other, BLOCK)
    with pytest.raises(CacheFullError):
        pool.grow(other, 2 * BLOCK)
    assert not set(other.blocks) & set(table.blocks)


def test_two_that_compute_the_same_side_by_side_keep_their_blocks() -> None:
    pool = BlockPool(8)
    pair = [pool.start(tokens(32), ())[0] for _ in range(2)]
    for table in pair:
        pool.grow(table, 32)
    before = [list(table.blocks) for table in pair]
    for table in pair:
        pool.settle(table, tokens(32), 32)
    assert [table.blocks for table in pair] == before
    assert pool.used == 4


def test_a_copy_stands_in_when_the_registered_block_is_given_up() -> None:
    pool = BlockPool(4)
    first, second = (pool.start(tokens(32), ())[0] for _ in range(2))
    for table in (first, second):
        pool.grow(table, 32)
        pool.settle(table, tokens(32), 32)
    pool.release(first)
    third, cached = pool.start(tokens(33), ())
    assert cached == 32
    assert third.blocks == second.blocks
    pool.release(second)
    pool.release(third)
    assert known(pool, tokens(33)) == 32
    assert pool.free == 4


def test_what_comes_after_a_copy_is_found() -> None:
    pool = BlockPool(8)
    first, second = (pool.start(tokens(16), ())[0] for _ in range(2))
    for table, more in ((first, 100), (second, 200)):
        pool.grow(table, 32)
        pool.settle(table, [*tokens(16), *tokens(16, first=more)], 32)
    pool.release(first)
    assert known(pool, [*tokens(16), *tokens(17, first=200)]) == 32
    assert known(pool, [*tokens(16), *tokens(17, first=100)]) == 32


def test_a_known_block_that_nobody_holds_makes_room_for_the_same_one_in_use() -> None:
    pool = BlockPool(4)
    first, second = (pool.start(tokens(32), ())[0] for _ in range(2))
    pool.grow(first, 32)
    pool.grow(second, 32)
    pool.settle(first, tokens(32), 32)
    pool.release(first)
    pool.settle(second, tokens(32), 32)
    other, _ = pool.start([7], ())
    pool.grow(other, 32)
    pool.release(other)
    assert known(pool, tokens(33)) == 32
    assert (pool.used, pool.free) == (2, 2)


def test_rewinding_gives_up_the_blocks_behind() -> None:
    pool = BlockPool(8)
    table, _ = pool.start(tokens(60), ())
    pool.grow(table, 60)
    kept = table.blocks[:2]
    assert pool.rewind(table, 20) == []
    assert (table.blocks, pool.used) == (kept, 2)


def test_rewinding_into_a_block_of_ones_own_copies_nothing() -> None:
    pool = BlockPool(8)
    table = computed(pool, tokens(20))
    blocks = list(table.blocks)
    assert pool.rewind(table, 17) == []
    assert table.blocks == blocks


def test_rewinding_to_where_a_shared_block_ends_copies_nothing() -> None:
    pool = BlockPool(8)
    table = computed(pool, tokens(40))
    other, _ = pool.start(tokens(40), ())
    assert pool.rewind(table, 32) == []
    assert table.blocks == other.blocks


@pytest.mark.parametrize("shared", [True, False])
def test_rewinding_into_a_registered_block_goes_on_in_a_copy(shared: bool) -> None:
    pool = BlockPool(8)
    table = computed(pool, tokens(40))
    if shared:
        pool.start(tokens(40), ())
    before = list(table.blocks)
    [(source, target)] = pool.rewind(table, 20)
    assert source == before[1]
    assert table.blocks == [before[0], target]
    assert target not in before[:2]
    assert known(pool, tokens(40)) == 32


def test_after_a_rewind_other_tokens_are_registered() -> None:
    pool = BlockPool(8)
    table = computed(pool, tokens(40))
    pool.rewind(table, 20)
    ids = [*tokens(20), *tokens(20, first=500)]
    pool.grow(table, 40)
    pool.settle(table, ids, 40)
    assert known(pool, ids) == 32
    assert known(pool, tokens(40)) == 32


def test_rewinding_in_a_full_pool_needs_no_copy_where_nobody_shares() -> None:
    pool = BlockPool(2)
    table = computed(pool, tokens(32))
    before = list(table.blocks)
    assert pool.rewind(table, 20) == []
    assert table.blocks == before
    assert known(pool, tokens(32)) == 16


def test_rewinding_into_a_copy_of_a_registered_block_needs_no_further_one() -> None:
    pool = BlockPool(8)
    pair = [pool.start(tokens(32), ())[0] for _ in range(2)]
    for table in pair:
        pool.grow(table, 32)
        pool.settle(table, tokens(32), 32)
    assert pool.rewind(pair[0], 20) == []
    assert known(pool, tokens(33)) == 32


def test_rewinding_without_room_for_the_copy_changes_nothing() -> None:
    pool = BlockPool(2)
    table = computed(pool, tokens(32))
    fork, _ = pool.fork(table, 32)
    before = list(table.blocks)
    with pytest.raises(CacheFullError):
        pool.rewind(table, 20)
    assert table.blocks == fork.blocks == before


def test_rewinding_in_a_full_pool_copies_into_a_block_that_it_gives_up() -> None:
    pool = BlockPool(3)
    table = computed(pool, tokens(32))
    pool.fork(table, 32)
    pool.grow(table, 48)
    source, last = table.blocks[1:]
    assert pool.rewind(table, 20) == [(source, last)]


def test_a_fork_shares_full_blocks_and_copies_the_rest() -> None:
    pool = BlockPool(8)
    table, _ = pool.start(tokens(40), ())
    pool.grow(table, 48)
    fork, copies = pool.fork(table, 40)
    assert fork.blocks[:2] == table.blocks[:2]
    assert copies == [(table.blocks[2], fork.blocks[2])]
    assert pool.used == 4


def test_a_fork_of_full_blocks_copies_nothing() -> None:
    pool = BlockPool(8)
    table = computed(pool, tokens(32))
    fork, copies = pool.fork(table, 32)
    assert (fork.blocks, copies, pool.used) == (table.blocks, [], 2)


def test_a_fork_outlives_its_origin() -> None:
    pool = BlockPool(4)
    table = computed(pool, tokens(40))
    fork, _ = pool.fork(table, 40)
    pool.release(table)
    assert pool.used == 3
    pool.grow(fork, 48)
    pool.settle(fork, tokens(48), 48)
    assert known(pool, tokens(49)) == 48


def test_a_fork_of_what_was_not_settled_can_be_settled_by_both() -> None:
    pool = BlockPool(4)
    table, _ = pool.start(tokens(32), ())
    pool.grow(table, 32)
    fork, _ = pool.fork(table, 32)
    pool.settle(table, tokens(32), 32)
    pool.settle(fork, tokens(32), 32)
    pool.release(table)
    pool.release(fork)
    assert known(pool, tokens(33)) == 32
    assert pool.free == 4


def test_a_fork_is_shared_also_where_its_origin_left_nothing() -> None:
    pool = BlockPool(4)
    table, _ = pool.start(tokens(32), ())
    pool.grow(table, 32)
    fork, _ = pool.fork(table, 32)
    pool.release(table)
    pool.settle(fork, tokens(32), 32)
    assert known(pool, tokens(33)) == 32


def test_a_fork_without_room_for_its_copy_changes_nothing() -> None:
    pool = BlockPool(3)
    table = computed(pool, tokens(40))
    with pytest.raises(CacheFullError):
        pool.fork(table, 40)
    pool.release(table)
    assert pool.free == 3


def test_an_adapter_that_goes_takes_its_prefixes_along() -> None:
    pool = BlockPool(8)
    pool.release(computed(pool, tokens(32), PIRATE))
    pool.release(computed(pool, tokens(32)))
    pool.forget("pirate")
    assert known(pool, tokens(33), PIRATE) == 0
    assert known(pool, tokens(33)) == 32
    assert pool.free == 8


def test_what_a_forgotten_adapter_still_computes_is_not_shared() -> None:
    pool = BlockPool(8)
    table = computed(pool, tokens(32), PIRATE)
    pool.forget("pirate")
    pool.grow(table, 64)
    pool.settle(table, tokens(64), 64)
    assert known(pool, tokens(65), PIRATE) == 0
    anew = computed(pool, tokens(32), PIRATE)
    pool.release(table)
    assert known(pool, tokens(33), PIRATE) == 32
    pool.release(anew)
    assert pool.free == 8


def test_what_a_forgotten_adapter_computed_displaces_nothing_known() -> None:
    pool = BlockPool(4)
    stale, _ = pool.start(tokens(32), PIRATE)
    pool.grow(stale, 32)
    pool.forget("pirate")
    pool.settle(stale, tokens(32), 32)
    pool.release(computed(pool, tokens(32)))
    pool.release(stale)
    computed(pool, tokens(32, first=100))
    assert known(pool, tokens(33)) == 32


def test_a_mix_that_nothing_is_known_of_leaves_no_trace() -> None:
    pool = BlockPool(4)
    table = computed(pool, tokens(32), PIRATE)
    known(pool, tokens(3), (("pirate", 0.5),))
    assert list(pool._roots) == [PIRATE]
    pool.release(table)
    pool.clear()
    assert not pool._roots


def test_a_copy_of_a_forgotten_block_is_given_up_as_any_other() -> None:
    pool = BlockPool(4)
    pair = [pool.start(tokens(32), PIRATE)[0] for _ in range(2)]
    for table in pair:
        pool.grow(table, 32)
        pool.settle(table, tokens(32), 32)
    pool.forget("pirate")
    for table in pair:
        pool.release(table)
    assert known(pool, tokens(33), PIRATE) == 0
    other, _ = pool.start([7], ())
    pool.grow(other, 64)
    assert sorted(other.blocks) == [0, 1, 2, 3]


def test_clearing_drops_what_nobody_holds() -> None:
    pool = BlockPool(8)
    held = computed(pool, tokens(32))
    pool.release(computed(pool, tokens(32, first=100)))
    pool.clear()
    assert known(pool, tokens(33)) == 32
    assert known(pool, tokens(33, first=100)) == 0
    assert (len(held.blocks), pool.free) == (2, 6)


def test_starting_a_long_prompt_takes_well_under_a_millisecond() -> None:
    pool = BlockPool(200)
    pool.release(computed(pool, tokens(2000)))
    times = []
    for _ in range(20):
        prompt = tokens(2000)
        begun = time.perf_counter()
        table, cached = pool.start(prompt, ())
        times.append(time.perf_counter() - begun)
        assert cached == 1984
        pool.release(table)
    assert min(times) < 0.001


# What a token's keys and values depend on: which reading of its adapters, all tokens up to it.
Content = tuple[int, Mix, tuple[int, ...]]

SIZE = 14
MIXES: list[Mix] = [(), PIRATE]


@dataclass(eq=False)
class Owner:
    """A sequence of the model: what it has written, and how much of that is certain."""

    table: Table
    mix: Mix
    reading: int
    ids: list[int]
    certain: int


class Walk:
    """Random use of a small pool, beside a model that writes into its blocks."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.pool = BlockPool(SIZE)
        self.cells: dict[tuple[int, int], Content] = {}
        self.owners: list[Owner] = []
        self.readings = dict.fromkeys(MIXES, 0)
        self.seen: Counter[str] = Counter()

    def step(self) -> None:
        if len(self.owners) < 5 and self.random.random() < 0.4:
            self.start()
        elif self.owners:
            owner = self.random.choice(self.owners)
            acts = (self.go_on, self.settle, self.rewind, self.fork, self.release, self.forget)
            self.random.choices(acts, (5, 6, 2, 1, 5, 0.1))[0](owner)
        self.check()

    def ids(self) -> list[int]:
        """Few texts, so that many begin the same; their lengths are around the ends of blocks."""
        whole = [self.random.choice((0, 0, 1)) for _ in range(self.random.randrange(4))]
        rest = [self.random.choice((0, 0, 1))] * self.random.choice((1, 7, 16))
        return [token for token in whole for _ in range(BLOCK)] + rest

    def length(self, owner: Owner) -> int:
        """How much of an owner's tokens something is done with."""
        most = len(owner.ids)
        return self.random.choice((most, most // BLOCK * BLOCK, self.random.randint(0, most)))

    def held(self) -> Counter[int]:
        return Counter(block for owner in self.owners for block in owner.table.blocks)

    def start(self) -> None:
        ids, mix = self.ids(), self.random.choice(MIXES)
        used = self.pool.used
        table, cached = self.pool.start(ids, mix)
        assert cached == BLOCK * len(table.blocks) < len(ids)
        self.seen["cached"] += cached > 0
        self.seen["known"] += self.pool.used > used
        owner = Owner(table, mix, self.readings[mix], ids[:cached], cached)
        self.owners.append(owner)
        self.require(table, owner, cached)
        self.write(owner, ids[cached:])

    def go_on(self, owner: Owner) -> None:
        self.write(owner, self.ids()[-BLOCK:])

    def write(self, owner: Owner, ids: list[int]) -> None:
        length = len(owner.ids) + len(ids)
        needed = max(0, -(-length // BLOCK) - len(owner.table.blocks))
        before = list(owner.table.blocks)
        if needed > SIZE - len(self.held()):
            with pytest.raises(CacheFullError):
                self.pool.grow(owner.table, length)
            assert owner.table.blocks == before
            self.seen["full"] += 1
            return
        self.pool.grow(owner.table, length)
        assert owner.table.blocks[: len(before)] == before
        holders = self.held()
        for token in ids:
            block, offset = owner.table.blocks[len(owner.ids) // BLOCK], len(owner.ids) % BLOCK
            assert holders[block] == 1
            owner.ids.append(token)
            self.cells[block, offset] = owner.reading, owner.mix, tuple(owner.ids)

    def settle(self, owner: Owner) -> None:
        before, used = list(owner.table.blocks), self.pool.used
        owner.certain = max(owner.certain, self.length(owner))
        self.pool.settle(owner.table, owner.ids, owner.certain)
        assert (owner.table.blocks, self.pool.used) == (before, used)

    def rewind(self, owner: Owner) -> None:
        length = self.length(owner)
        before = list(owner.table.blocks)
        try:
            copies = self.pool.rewind(owner.table, length)
        except CacheFullError:
            assert owner.table.blocks == before
            held = self.held()
            assert len(held) == SIZE
            assert all(held[block] > 1 for block in before[length // BLOCK :])
            return
        self.copy(copies)
        self.seen["rewound into a copy"] += len(copies)
        del owner.ids[length:]
        owner.certain = min(owner.certain, length)

    def fork(self, owner: Owner) -> None:
        if len(self.owners) > 5:
            return
        length = self.length(owner)
        try:
            table, copies = self.pool.fork(owner.table, length)
        except CacheFullError:
            assert len(self.held()) == SIZE
            assert length % BLOCK
            return
        certain = min(length, owner.certain)
        self.owners.append(Owner(table, owner.mix, owner.reading, owner.ids[:length], certain))
        self.copy(copies)

    def copy(self, copies: list[tuple[int, int]]) -> None:
        for source, target in copies:
            assert self.held()[target] == 1
            for offset in range(BLOCK):
                if (source, offset) in self.cells:
                    self.cells[target, offset] = self.cells[source, offset]

    def release(self, owner: Owner) -> None:
        self.owners.remove(owner)
        self.pool.release(owner.table)
        self.pool.release(owner.table)

    def forget(self, _: Owner) -> None:
        if self.random.random() < 0.5:
            self.pool.clear()
        else:
            self.readings[PIRATE] += 1
            self.pool.forget("pirate")

    def require(self, table: Table, owner: Owner, length: int) -> None:
        """A table has the content of an owner's first `length` tokens."""
        for i in range(length):
            place = table.blocks[i // BLOCK], i % BLOCK
            assert self.cells[place] == (owner.reading, owner.mix, tuple(owner.ids[: i + 1]))

    def check(self) -> None:
        assert self.pool.used == len(self.held())
        assert self.pool.used + self.pool.free == SIZE
        for owner in self.owners:
            assert len(set(owner.table.blocks)) == len(owner.table.blocks)
            self.require(owner.table, owner, len(owner.ids))
            if owner.reading == self.readings[owner.mix]:
                self.check_found(owner, owner.certain // BLOCK * BLOCK)

    def check_found(self, owner: Owner, settled: int) -> None:
        """What is settled and held is never evicted."""
        used = self.pool.used
        table, cached = self.pool.start([*owner.ids[:settled], 9], owner.mix)
        assert (cached, self.pool.used) == (settled, used)
        self.seen["held twice"] += table.blocks != owner.table.blocks[: len(table.blocks)]
        self.require(table, owner, cached)
        self.pool.release(table)


@pytest.mark.parametrize("seed", range(8))
def test_random_use_shares_what_is_true_and_leaks_nothing(seed: int) -> None:
    walk = Walk(seed)
    for _ in range(1500):
        walk.step()
    assert len(walk.seen) == 5 and min(walk.seen.values()) > 5, walk.seen
    for owner in walk.owners:
        walk.pool.release(owner.table)
    assert (walk.pool.used, walk.pool.free) == (0, SIZE)
    table, _ = walk.pool.start([9], ())
    walk.pool.grow(table, SIZE * BLOCK)
    assert sorted(table.blocks) == list(range(SIZE))
