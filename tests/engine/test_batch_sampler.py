"""The batch sampler makes of a row's logits what the request's own chain makes of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from modules.engine.worker.sampler import Sampler
from modules.engine.worker.sampling.batch.row import Row
from modules.engine.worker.sampling.batch.sampler import BatchSampler
from modules.engine.worker.structure.structure import Structure
from tests.engine.batch_sampler_cases import SETTINGS, TEXT, logits_of, random_changes, sampler

CPU = torch.device("cpu")
VOCABS = (30, 700, 4099)
"""Fewer tokens than top k leaves; more; and so many that a row is scanned in pieces."""


def begin(
    batch: BatchSampler, changes: list[dict[str, Any]], text: list[int]
) -> tuple[list[Sampler], list[Row]]:
    samplers = [sampler(seed, **some) for seed, some in enumerate(changes)]
    return samplers, [batch.begin(one, text) for one in samplers]


def check_same(scores: Tensor, expected: list[Tensor], names: list[str]) -> None:
    for name, mine, theirs in zip(names, scores, expected, strict=True):
        difference = (mine.softmax(-1) - theirs.softmax(-1)).abs().max()
        assert difference < 1e-5, name


def check_replies(names: list[str], changes: list[dict[str, Any]], vocab: int, steps: int) -> None:
    """Follow all rows in one batch, and each in a chain that is told the same tokens."""
    batch = BatchSampler(vocab, CPU)
    samplers, rows = begin(batch, changes, TEXT)
    texts = [list(TEXT) for _ in rows]
    for step in range(steps):
        logits = logits_of(len(rows), vocab, seed=step)
        expected = [
            one.process(row, text) for one, row, text in zip(samplers, logits, texts, strict=True)
        ]
        check_same(batch.process(logits, rows), expected, names)
        tokens, ok = batch.sample(logits, rows)
        assert ok.all()
        for text, token, scores in zip(texts, tokens.tolist(), expected, strict=True):
            assert scores[token].isfinite()
            text.append(token)
    assert [row.drawn for row in rows] == [steps] * len(rows)


@pytest.mark.parametrize("vocab", VOCABS)
@pytest.mark.parametrize("name", SETTINGS)
def test_a_parameter_alone_does_what_it_does_in_the_chain(name: str, vocab: int) -> None:
    check_replies([name], [SETTINGS[name]], vocab, 3)


@pytest.mark.parametrize("vocab", VOCABS)
def test_rows_of_all_kinds_in_one_batch_keep_their_own_parameters(vocab: int) -> None:
    check_replies(list(SETTINGS), list(SETTINGS.values()), vocab, 8)


@pytest.mark.parametrize("seed", range(40))
def test_any_parameters_together_do_what_they_do_in_the_chain(seed: int) -> None:
    changes = [random_changes(12 * seed + i) for i in range(12)]
    check_replies([str(some) for some in changes], changes, VOCABS[seed % 3], 6)


def test_ten_thousand_tokens_of_repetition_count_as_in_the_chain() -> None:
    changes = [
        {"dry_multiplier": 0.8, "dry_allowed_length": 1},
        {"no_repeat_ngram_size": 4},
        {"frequency_penalty": 0.01, "repetition_penalty_range": 4096},
        {"presence_penalty": 1, "dry_multiplier": 0.5, "dry_sequence_breakers": []},
    ]
    text = torch.randint(0, 20, (10_000,), generator=torch.Generator().manual_seed(1)).tolist()
    batch = BatchSampler(30, CPU)
    samplers, rows = begin(batch, changes, text)
    for step in range(3):
        logits = logits_of(len(rows), 30, step)
        texts = [[*text, *range(step)]] * len(rows)
        expected = [
            one.process(row, some) for one, row, some in zip(samplers, logits, texts, strict=True)
        ]
        check_same(batch.process(logits, rows), expected, ["dry", "ngram", "range", "both"])
        forced = torch.full((len(rows), 30), -1e9)
        forced[:, step] = 1e9
        assert batch.sample(forced, rows)[0].tolist() == [step] * len(rows)


def test_a_history_that_outgrows_its_room_is_kept() -> None:
    changes = {"dry_multiplier": 1, "repetition_penalty": 1.2, "repetition_penalty_range": 1010}
    batch, text = BatchSampler(30, CPU), [i % 7 for i in range(1000)]
    (mine,), rows = begin(batch, [changes], text)
    logits = logits_of(1, 30)
    for _ in range(60):
        text = [*text, int(batch.sample(logits, rows)[0])]
    check_same(batch.process(logits, rows), [mine.process(logits[0], text)], ["ranged"])


def test_token_ids_without_a_logit_do_no_harm() -> None:
    changes = [
        {"repetition_penalty": 1.3, "repetition_penalty_range": 3},
        {"frequency_penalty": 1, "encoder_repetition_penalty": 1.2},
        {"dry_multiplier": 1, "dry_allowed_length": 1, "no_repeat_ngram_size": 2},
    ]
    text = [70, 2, 3, 70, 2, 70]
    batch = BatchSampler(30, CPU)
    samplers, rows = begin(batch, changes, text)
    for step in range(5):
        logits = logits_of(3, 30, step)
        expected = [
            one.process(row, [*text, *range(4, 4 + step)])
            for one, row in zip(samplers, logits, strict=True)
        ]
        check_same(batch.process(logits, rows), expected, ["ranged", "bonus", "dry"])
        batch.sample(logits.index_fill(1, torch.tensor(4 + step), 99.0), rows)


def test_a_ban_of_all_tokens_is_dropped() -> None:
    changes = [{"custom_token_bans": [str(i) for i in range(6)]}, {"no_repeat_ngram_size": 1}]
    batch = BatchSampler(6, CPU)
    _, rows = begin(batch, changes, list(range(6)))
    assert batch.process(logits_of(2, 6), rows).isfinite().all()


def test_all_tokens_as_likely_as_the_last_of_top_k_stay() -> None:
    batch = BatchSampler(700, CPU)
    (mine,), rows = begin(batch, [{"top_k": 43, "temperature": 0.8}], TEXT)
    logits = logits_of(1, 700).mul(2).round().div(2)  # as coarse as bfloat16 makes them
    expected = mine.process(logits[0], TEXT)
    assert expected.isfinite().sum() > 43
    check_same(batch.process(logits, rows), [expected], ["top k"])


def test_top_p_keeps_the_last_of_equal_tokens_with_top_k_and_without() -> None:
    batch = BatchSampler(700, CPU)
    samplers, rows = begin(batch, [{"top_p": 0.5}, {"top_p": 0.5, "top_k": 50}], TEXT)
    logits = torch.full((2, 700), -50.0)
    logits[:, 100:150:5] = 2.0
    kept = batch.process(logits, rows).isfinite()
    assert kept.sum(-1).tolist() == [
        int(one.process(row, TEXT).isfinite().sum())
        for one, row in zip(samplers, logits, strict=True)
    ]
    assert kept[0].nonzero()[:, 0].tolist()[-5:] == [125, 130, 135, 140, 145]
    assert torch.equal(kept[0], kept[1])


def test_the_slots_of_forgotten_rows_are_taken_again_and_clean() -> None:
    changes = {"mirostat_mode": 2, "frequency_penalty": 1, "no_repeat_ngram_size": 2}
    batch = BatchSampler(30, CPU)
    first: Tensor | None = None
    for _ in range(40):
        _, rows = begin(batch, [changes, changes], TEXT)
        assert max(row.slot for row in rows) < 17
        tokens = torch.stack([batch.sample(logits_of(2, 30, i), rows)[0] for i in range(4)])
        first = tokens if first is None else first
        assert torch.equal(tokens, first)


def test_more_rows_than_slots_keep_what_they_said() -> None:
    changes = {"frequency_penalty": 1, "dry_multiplier": 1, "mirostat_mode": 2}
    batch = BatchSampler(30, CPU)
    samplers, early = begin(batch, [changes] * 5, TEXT)
    tokens, _ = batch.sample(logits_of(5, 30), early)
    for one, row in zip(samplers, logits_of(5, 30), strict=True):
        one.process(row, TEXT)
    _, late = begin(batch, [changes] * 40, TEXT)
    assert len({row.slot for row in [*early, *late]}) == 45
    logits = logits_of(5, 30, 9)
    expected = [
        one.process(row, [*TEXT, token])
        for one, row, token in zip(samplers, logits, tokens.tolist(), strict=True)
    ]
    check_same(batch.process(logits, early), expected, ["early"] * 5)


def test_only_a_form_that_the_host_follows_does_not_fit() -> None:
    class Form(Structure):
        def __init__(self) -> None:
            pass

    assert all(BatchSampler.fits(sampler(**changes)) for changes in SETTINGS.values())
    held = sampler()
    held.structure = Form()
    assert not BatchSampler.fits(held)
