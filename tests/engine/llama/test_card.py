"""The fast runner on a card: kernels and captured steps against float32 on the processor."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modules.engine.worker.llama.blocks import BLOCK
from modules.engine.worker.sequence import Track
from tests.engine.llama.cards import CASES, Twin, assert_close, text, twin_of
from tests.engine.llama.tracks import beginning, computed, track

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA card"),
]

LENGTHS = (1, 15, 16, 17, 40, 64, 65, 150, 333, 480)
"""Of prompts: at the edges of blocks, of chunks, and of what a block of threads reads."""


@pytest.fixture(scope="module", params=CASES)
def twin(request: pytest.FixtureRequest) -> Twin:
    return twin_of(request.param)


def written(table: list[int], position: int) -> tuple[int, int]:
    """The block and the place in it of a token."""
    return table[position // BLOCK], position % BLOCK


def blocks_of(twin: Twin, one: Track) -> list[int]:
    return twin.runner._tables[one.id].blocks


def cached(twin: Twin, one: Track, block: int) -> Tensor:
    """A block of a track as bits, [layers, 2, kv_heads, 16, head_dim]."""
    numbers = twin.runner._model.cache.numbers
    return numbers[:, :, blocks_of(twin, one)[block]].view(torch.int16).clone()


# -- logits -------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [64, 2048])
def test_a_prompt_gives_the_logits_of_its_weights(twin: Twin, chunk: int) -> None:
    one = twin.fresh(text(150))
    twin.check(beginning(twin.runner, one, chunk)[None], one.token_ids)
    twin.runner.release(one, keep=False)


@pytest.mark.parametrize("rows", [1, 3, 9, 17, 33])
def test_captured_steps_give_the_logits_of_their_weights(twin: Twin, rows: int) -> None:
    twin.fresh([])
    texts = [text(LENGTHS[row % len(LENGTHS)] + 2, seed=row) for row in range(rows)]
    tracks = [track(ids[:-2]) for ids in texts]
    found = [[beginning(twin.runner, one)] for one in tracks]
    for step in (-2, -1):
        for one, ids in zip(tracks, texts, strict=True):
            one.token_ids.append(ids[step])
        for each, row in zip(found, twin.runner.decode(tracks).clone(), strict=True):
            each.append(row)
    for one, each, ids in zip(tracks, found, texts, strict=True):
        twin.check(torch.stack(each), ids)
        twin.runner.release(one, keep=False)


def test_drafts_give_the_logits_of_their_tokens(twin: Twin) -> None:
    one, rest = twin.fresh(text(40)), text(78, seed=1)
    beginning(twin.runner, one)
    found = []
    for count in range(1, 13):
        draft, rest = rest[:count], rest[count:]
        found.append(twin.runner.extend(one, draft).clone())
        one.token_ids += draft
    assert one.computed == 118
    twin.check(torch.cat(found), one.token_ids)
    twin.runner.release(one, keep=False)


# -- rows ---------------------------------------------------------------------------------


def test_rows_of_very_different_lengths_are_each_what_they_are_alone(twin: Twin) -> None:
    twin.fresh([])
    tracks = [track(text(length, seed=length)) for length in LENGTHS]
    for one in tracks:
        beginning(twin.runner, one)
        one.token_ids.append(7)
    together = twin.runner.decode(tracks).clone()
    for one, row in zip(tracks, together, strict=True):
        twin.runner.rewind(one, one.computed - 1)
        alone = twin.runner.decode([one])
        assert_close(row[None], alone, twin.dtype)
        twin.check(row[None], one.token_ids)
    for one in tracks:
        twin.runner.release(one, keep=False)


@pytest.mark.parametrize("rows", [1, 3, 5, 9, 17])
def test_a_step_writes_its_own_tokens_and_nothing_else(twin: Twin, rows: int) -> None:
    twin.fresh([])
    # Texts that no other test has, for what is in the cache already would be no change.
    tracks = [track(text(LENGTHS[row % 8], seed=1000 * rows + row)) for row in range(rows)]
    for one in tracks:
        beginning(twin.runner, one)
        one.token_ids.append(100 + rows)
    cache = twin.runner._model.cache.numbers.view(torch.int16)
    before = cache.clone()
    twin.runner.decode(tracks)
    changed = (cache != before).any(5).any(3).any(1).any(0)  # [blocks, 16]
    meant = {written(blocks_of(twin, one), len(one.token_ids) - 1) for one in tracks}
    assert {(block, place) for block, place in changed.nonzero().tolist()} == meant
    for one in tracks:
        twin.runner.release(one, keep=False)


# -- what is shared -----------------------------------------------------------------------


def test_shared_blocks_give_the_logits_of_own_ones(twin: Twin) -> None:
    first, rest = twin.fresh(text(150)), text(40, seed=1)
    beginning(twin.runner, first)
    second = track(first.token_ids[:100] + rest)
    assert twin.runner.start(second) == 96
    assert blocks_of(twin, second) == blocks_of(twin, first)[:6]
    logits = twin.runner.prefill(second, 2048)
    assert logits is not None
    twin.check(logits[None], second.token_ids)
    for one, seed in ((first, 2), (second, 3)):
        twin.check(computed(twin.runner, one, text(18, seed)), one.token_ids)
    for one in (first, second):
        twin.runner.release(one, keep=False)


def test_a_rewind_copies_the_block_that_another_has_too(twin: Twin) -> None:
    one, other = twin.fresh(text(50)), track(text(50))
    beginning(twin.runner, one)
    beginning(twin.runner, other)
    assert blocks_of(twin, other)[:3] == blocks_of(twin, one)[:3]
    theirs = cached(twin, other, 1)
    twin.runner.rewind(one, 21)
    assert blocks_of(twin, one)[0] == blocks_of(twin, other)[0]
    assert blocks_of(twin, one)[1] not in blocks_of(twin, other)
    assert torch.equal(cached(twin, one, 1)[..., :5, :], theirs[..., :5, :])
    del one.token_ids[21:]
    twin.check(computed(twin.runner, one, text(20, seed=1)), one.token_ids)
    assert torch.equal(cached(twin, other, 1), theirs)
    twin.check(computed(twin.runner, other, text(5, seed=2)), other.token_ids)
    for each in (one, other):
        twin.runner.release(each, keep=False)


def test_a_fork_shares_full_blocks_and_copies_the_last(twin: Twin) -> None:
    one = twin.fresh(text(37))
    beginning(twin.runner, one)
    fork = track(one.token_ids)
    twin.runner.fork(one, fork)
    assert blocks_of(twin, fork)[:2] == blocks_of(twin, one)[:2]
    assert blocks_of(twin, fork)[2] != blocks_of(twin, one)[2]
    assert torch.equal(cached(twin, fork, 2)[..., :5, :], cached(twin, one, 2)[..., :5, :])
    for step in range(6):
        for each, seed in ((one, step), (fork, 100 + step)):
            twin.check(computed(twin.runner, each, text(1, seed)), each.token_ids)
    for each in (one, fork):
        twin.runner.release(each, keep=False)
