"""What the batch sampler draws: fairly, repeatably, and whoever else is in the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from modules.engine.worker.sampling.batch.row import Row
from modules.engine.worker.sampling.batch.sampler import BatchSampler
from modules.engine.worker.sampling.draws import COIN, pick, uniform
from tests.engine.batch_sampler_cases import SETTINGS, TEXT, logits_of, random_changes, sampler

CPU = torch.device("cpu")


def likely(counts: torch.Tensor, expected: torch.Tensor) -> float:
    """How likely counts so far from what was expected are, by a chi-squared test."""
    common = expected >= 5
    counts = torch.cat([counts[common], counts[~common].sum()[None]])
    expected = torch.cat([expected[common], expected[~common].sum()[None]])
    if expected[-1] < 1:
        counts, expected = counts[:-1], expected[:-1]
    chi2 = ((counts - expected) ** 2 / expected).sum()
    freedom = torch.tensor((len(expected) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, chi2 / 2))


@pytest.mark.parametrize(
    ("name", "vocab", "draws"),
    [*((name, 30, 100_000) for name in ("neutral", "the defaults", "min p", "typical p")),
     ("neutral", 2500, 20_000), ("top p", 2500, 20_000)],
)  # fmt: skip
def test_draws_follow_the_distribution(name: str, vocab: int, draws: int) -> None:
    batch, rows = BatchSampler(vocab, CPU), list[Row]()
    for seed in range(250):
        rows.append(batch.begin(sampler(seed, **SETTINGS[name]), TEXT))
    logits = logits_of(1, vocab)
    scores = batch.process(logits, rows[:1])
    expected = scores[0].double().softmax(-1) * draws
    # Many draws of each row at once, from what its parameters have made of the logits.
    numbers = [uniform(row.seed, draw) for row in rows for draw in range(draws // len(rows))]
    uniforms = torch.tensor(numbers, dtype=torch.float64)[:, None]
    parts = [pick(scores.expand(len(part), -1), part) for part in uniforms.split(2000)]
    counts = torch.bincount(torch.cat(parts), minlength=vocab).double()
    assert counts[expected == 0].sum() == 0
    assert likely(counts, expected) > 1e-4
    tokens, _ = batch.sample(logits.expand(250, -1).contiguous(), rows)
    assert tokens.tolist() == torch.cat(parts)[:: draws // len(rows)].tolist()


def test_the_numbers_are_even_and_of_one_another_independent() -> None:
    numbers = torch.tensor(
        [[uniform(seed, draw) for draw in range(1000)] for seed in range(100)],
        dtype=torch.float64,
    )
    bins = torch.histc(numbers, 100, 0, 1)
    assert likely(bins, torch.full((100,), 1000.0, dtype=torch.float64)) > 1e-4
    for other in (numbers.roll(1, 0), numbers.roll(1, 1)):
        assert (
            abs(float(torch.corrcoef(torch.stack([numbers.ravel(), other.ravel()]))[0, 1])) < 0.02
        )
    assert len(numbers.unique()) == numbers.numel()


def test_the_coin_is_another_number_than_that_of_the_token() -> None:
    assert len({uniform(seed, 3, stream) for seed in range(50) for stream in (0, COIN)}) == 100


def test_the_number_of_a_draw_never_changes() -> None:
    assert [uniform(7, draw) for draw in range(3)] == pytest.approx(
        [0.9427754275601163, 0.20203939276752259, 0.2263244787137868], abs=1e-12
    )


@pytest.mark.parametrize("vocab", [3, 2048, 2049, 5000, 128_256])
def test_a_token_that_is_ruled_out_is_never_drawn(vocab: int) -> None:
    scores = torch.full((4, vocab), -torch.inf)
    scores[0, 1], scores[1, vocab - 1], scores[2, 0] = -70.0, 3.0, 1e30
    scores[3, [0, 2]] = 5.0
    least, most = 2.0**-49, 1 - 2.0**-49
    for u in (least, 0.3, 0.5, most):
        drawn = pick(scores, torch.full((4, 1), u, dtype=torch.float64)).tolist()
        assert drawn == [1, vocab - 1, 0, 0 if u < 0.5 else 2]


@pytest.mark.parametrize("vocab", [30, 4099])
def test_xtc_acts_as_often_as_its_probability_says(vocab: int) -> None:
    batch = BatchSampler(vocab, CPU)
    changes = {"xtc_probability": 0.3, "xtc_threshold": 0.05}
    rows = [batch.begin(sampler(seed, **changes), TEXT) for seed in range(1000)]
    logits = torch.full((1000, vocab), -20.0)
    logits[:, 7:10] = torch.tensor([3.0, 2.0, 1.0])
    acted = sum(int((batch.sample(logits, rows)[0] == 9).sum()) for _ in range(3))
    plain = float(logits[0].softmax(-1)[9])
    # Where it acts, 9 alone is left.
    meant = 0.3 + 0.7 * plain
    assert abs(acted - 3000 * meant) < 4 * (3000 * meant * (1 - meant)) ** 0.5


def replies(changes: list[dict[str, Any]], mine: list[int], vocab: int) -> dict[int, list[int]]:
    """Twelve tokens of each of `mine` in a batch, each with logits that are its own."""
    batch = BatchSampler(vocab, CPU)
    rows = {i: batch.begin(sampler(i, **changes[i]), TEXT) for i in mine}
    written: dict[int, list[int]] = {i: [] for i in mine}
    for step in range(12):
        # Others come and go, as they do.
        there = [i for i in mine if i < 20 or step % 5 < 3]
        logits = torch.cat([logits_of(1, vocab, 1000 * len(written[i]) + i) for i in there])
        tokens, _ = batch.sample(logits, [rows[i] for i in there])
        for i, token in zip(there, tokens.tolist(), strict=True):
            written[i].append(token)
    return written


@pytest.mark.parametrize("vocab", [30, 4099])
def test_a_row_draws_the_same_alone_and_among_others(vocab: int) -> None:
    changes = [random_changes(i) | {"do_sample": True} for i in range(20)]
    changes += list(SETTINGS.values())
    for some in changes[:20:2]:
        some["xtc_probability"] = 0.5
    together = replies(changes, list(range(len(changes))), vocab)
    few = replies(changes, [19, 3, 11, 7], vocab)
    for i in range(20):
        assert replies(changes, [i], vocab)[i] == together[i]
    for i, tokens in few.items():
        assert tokens == together[i]


def test_another_seed_is_another_reply() -> None:
    batch = BatchSampler(30, CPU)
    rows = [batch.begin(sampler(seed), TEXT) for seed in (1, 1, 2)]
    logits = logits_of(1, 30).expand(3, -1).contiguous()
    drawn = torch.stack([batch.sample(logits, rows)[0] for _ in range(40)], dim=1)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert len(drawn[0].unique()) > 3


def test_greedy_rows_take_the_highest_logit() -> None:
    batch = BatchSampler(4099, CPU)
    cases = [{"temperature": 0}, {"do_sample": False, "top_k": 3, "xtc_probability": 1}]
    rows = [batch.begin(sampler(**changes), TEXT) for changes in cases]
    logits = logits_of(2, 4099)
    assert batch.sample(logits, rows)[0].tolist() == logits.argmax(-1).tolist()
    mixed = [batch.begin(sampler(temperature=1.5), TEXT), *rows]
    logits = logits_of(3, 4099)
    assert batch.sample(logits, mixed)[0][1:].tolist() == logits[1:].argmax(-1).tolist()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("vocab", [30, 4099])
def test_a_row_whose_logits_are_no_numbers_is_told_and_harms_no_other(
    bad: float, vocab: int
) -> None:
    cases = [*SETTINGS.values()]
    for place in range(0, len(cases), 5):
        batch, other = BatchSampler(vocab, CPU), BatchSampler(vocab, CPU)
        logits = logits_of(len(cases), vocab)
        spoilt = logits.clone()
        spoilt[place, ::3] = bad
        rows, same = (
            [sampler_.begin(sampler(i, **some), TEXT) for i, some in enumerate(cases)]
            for sampler_ in (batch, other)
        )
        tokens, ok = batch.sample(spoilt, rows)
        assert ok.tolist() == [i != place for i in range(len(cases))]
        assert tokens[place] == 0
        healthy, _ = other.sample(logits, same)
        expected = healthy.tolist()
        expected[place] = 0
        assert tokens.tolist() == expected


def test_logits_that_are_all_ruled_out_are_told() -> None:
    batch = BatchSampler(30, CPU)
    rows = [batch.begin(sampler(top_k=3), TEXT), batch.begin(sampler(temperature=0), TEXT)]
    tokens, ok = batch.sample(torch.full((2, 30), -torch.inf), rows)
    assert tokens.tolist() == [0, 0]
    assert ok.tolist() == [False, False]


def test_the_logits_are_not_altered_in_place() -> None:
    batch = BatchSampler(700, CPU)
    logits = logits_of(len(SETTINGS), 700)
    before = logits.clone()
    batch.sample(logits, [batch.begin(sampler(**some), TEXT) for some in SETTINGS.values()])
    assert torch.equal(logits, before)


@pytest.mark.parametrize("vocab", [30, 4099])
def test_a_chain_that_draws_by_the_same_numbers_draws_the_same_tokens(vocab: int) -> None:
    cases = list(SETTINGS.values())
    batch = BatchSampler(vocab, CPU)
    samplers = [sampler(i, **some) for i, some in enumerate(cases)]
    rows = [batch.begin(one, TEXT) for one in samplers]
    texts = [list(TEXT) for _ in cases]
    for step in range(4):
        logits = logits_of(len(cases), vocab, step)
        tokens, _ = batch.sample(logits, rows)
        for one, row, text, token in zip(samplers, logits, texts, tokens.tolist(), strict=True):
            scores = one.process(row, text)
            number = torch.tensor([[uniform(one.seed, step)]], dtype=torch.float64)
            alone = scores.argmax() if one.params.greedy else pick(scores[None], number)[0]
            assert alone == token
            text.append(token)
