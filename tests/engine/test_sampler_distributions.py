"""Each sampler gives the distribution that its formula, written anew in numpy, gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.engine.params import Knob, SamplingParams, knobs
from modules.engine.worker.sampler import Sampler

Logits = np.ndarray
Rule = Callable[[Logits], Logits]

VOCAB = 30
X = np.random.default_rng(5).normal(0, 2.2, VOCAB)
"""Logits whose probabilities go from 0.3 down to 1e-5."""
TEXT = [3, 7, 9, 7, 12, 3, 7, 12, 21, 3, 7]
BREAKERS = {":": [12]}
DRAWS = 100_000


def sampler(seed: int = 1, **changes: Any) -> Sampler:
    params = SamplingParams.neutral(seed=seed, **changes)
    return Sampler(params, frozenset({0}), lambda text: BREAKERS.get(text[1:], []))


def softmax(x: Logits) -> Logits:
    e = np.exp(x - x.max())
    return e / e.sum()


def keep(x: Logits, kept: np.ndarray) -> Logits:
    return np.where(kept, x, -np.inf)


def keep_first(x: Logits, order: np.ndarray, count: int) -> Logits:
    return keep(x, np.isin(np.arange(VOCAB), order[:count]))


def entropy(x: Logits) -> float:
    p = softmax(x)
    return float(-sum(q * math.log(q) for q in p if q > 0))


def nucleus(mass: float) -> Rule:
    def rule(x: Logits) -> Logits:
        p = softmax(x)
        order = np.argsort(-p)
        return keep_first(x, order, int(np.searchsorted(np.cumsum(p[order]), mass)) + 1)

    return rule


def typical(mass: float) -> Rule:
    def rule(x: Logits) -> Logits:
        p = softmax(x)
        order = np.argsort(np.abs(-np.log(p) - entropy(x)))
        return keep_first(x, order, int(np.searchsorted(np.cumsum(p[order]), mass)) + 1)

    return rule


def tail_free(z: float) -> Rule:
    def rule(x: Logits) -> Logits:
        order = np.argsort(-x)
        p = softmax(x)[order]
        bends = [abs(p[i] - 2 * p[i + 1] + p[i + 2]) for i in range(VOCAB - 2)]
        count, total = 1, 0.0
        for bend in bends:
            total += bend / sum(bends)
            count += total <= z
        return keep_first(x, order, count)

    return rule


def eta(epsilon: float) -> Rule:
    def rule(x: Logits) -> Logits:
        limit = min(epsilon, math.sqrt(epsilon) * math.exp(-entropy(x)))
        return keep(x, softmax(x) >= limit)

    return rule


def dynamic(low: float, high: float, exponent: float) -> Rule:
    def rule(x: Logits) -> Logits:
        unsure = entropy(x) / math.log(np.isfinite(x).sum())
        return x / (low + (high - low) * unsure**exponent)

    return rule


def quadratic(factor: float, curve: float) -> Rule:
    def rule(x: Logits) -> Logits:
        d = x - x.max()
        return -(3 - curve) / 2 * factor * d**2 + (curve - 1) / 2 * factor * d**3 + x.max()

    return rule


def xtc(threshold: float) -> Rule:
    def rule(x: Logits) -> Logits:
        p = softmax(x)
        likely = [i for i in range(VOCAB) if p[i] >= threshold]
        least = min(likely, key=lambda i: p[i], default=None)
        return keep(x, ~np.isin(np.arange(VOCAB), [i for i in likely if i != least]))

    return rule


def zipf(tau: float) -> Rule:
    def rule(x: Logits) -> Logits:
        p = np.sort(softmax(x))[::-1]
        steps = [math.log((i + 2) / (i + 1)) for i in range(VOCAB - 1)]
        ratios = [math.log(p[i] / p[i + 1]) for i in range(VOCAB - 1)]
        s = sum(a * b for a, b in zip(steps, ratios, strict=True)) / sum(a * a for a in steps)
        k = ((s - 1) * 2 ** (2 * tau) / (1 - VOCAB ** (1 - s))) ** (1 / s)
        return keep_first(x, np.argsort(-x), max(1, round(k)))

    return rule


def adaptive(target: float) -> Rule:
    def rule(x: Logits) -> Logits:
        d = np.abs(softmax(x) - target) / 0.3
        return np.where(np.isfinite(x), 5 - 10 * d * d / (1 + d), -np.inf)

    return rule


def penalty(value: float, ids: list[int]) -> Rule:
    def rule(x: Logits) -> Logits:
        return np.array(
            [(v / value if v > 0 else v * value) if i in ids else v for i, v in enumerate(x)]
        )

    return rule


def occurrences(presence: float, frequency: float, ids: list[int]) -> Rule:
    return lambda x: np.array(
        [v - presence * (i in ids) - frequency * ids.count(i) for i, v in enumerate(x)]
    )


def dry(multiplier: float, base: float, allowed: int) -> Rule:
    breakers = BREAKERS[":"]

    def repeated(token: int) -> int:
        lengths = range(1, len(TEXT))
        texts = [TEXT[i : i + n + 1] for n in lengths for i in range(len(TEXT) - n)]
        fitting = [n for n in lengths if [*TEXT[-n:], token] in texts]
        whole = [n for n in fitting if not set(breakers) & {*TEXT[-n:], token}]
        return max(whole, default=0)

    def rule(x: Logits) -> Logits:
        lengths = [repeated(i) for i in range(VOCAB)]
        return np.array(
            [v - multiplier * base ** (n - allowed) * (n >= allowed)
             for v, n in zip(x, lengths, strict=True)]
        )  # fmt: skip

    return rule


def no_repeat(size: int) -> Rule:
    seen = [TEXT[i : i + size] for i in range(len(TEXT) - size + 1)]
    banned = [i for i in range(VOCAB) if [*TEXT[len(TEXT) - size + 1 :], i] in seen]
    return lambda x: keep(x, ~np.isin(np.arange(VOCAB), banned))


def largest(k: int) -> Rule:
    return lambda x: keep(x, x >= np.sort(x)[-k])


def divided(temperature: float) -> Rule:
    return lambda x: x / temperature


def share(minimum: float) -> Rule:
    return lambda x: keep(x, softmax(x) >= minimum * softmax(x).max())


def without(*ids: int) -> Rule:
    return lambda x: keep(x, ~np.isin(np.arange(VOCAB), ids))


EXPECTED: dict[str, tuple[dict[str, Any], list[Rule]]] = {
    "neutral": ({}, []),
    "temperature": ({"temperature": 1.7}, [divided(1.7)]),
    "top_p": ({"top_p": 0.8}, [nucleus(0.8)]),
    "top_k": ({"top_k": 9}, [largest(9)]),
    "min_p": ({"min_p": 0.2}, [share(0.2)]),
    "typical_p": ({"typical_p": 0.6}, [typical(0.6)]),
    "tfs": ({"tfs": 0.9}, [tail_free(0.9)]),
    "top_a": ({"top_a": 0.3}, [lambda x: keep(x, softmax(x) >= 0.3 * softmax(x).max() ** 2)]),
    "top_n_sigma": ({"top_n_sigma": 1.2}, [lambda x: keep(x, x >= x.max() - 1.2 * x.std())]),
    "epsilon": ({"epsilon_cutoff": 9}, [lambda x: keep(x, softmax(x) >= 9e-4)]),
    "eta": ({"eta_cutoff": 20}, [eta(20e-4)]),
    "dynamic": (
        {"dynamic_temperature": True, "dynatemp_low": 0.4, "dynatemp_high": 3,
         "dynatemp_exponent": 1.4},
        [dynamic(0.4, 3, 1.4)],
    ),
    "smoothing": ({"smoothing_factor": 0.3}, [quadratic(0.3, 1)]),
    "smoothing curve": ({"smoothing_factor": 0.1, "smoothing_curve": 4}, [quadratic(0.1, 4)]),
    "xtc": ({"xtc_probability": 1, "xtc_threshold": 0.07}, [xtc(0.07)]),
    "mirostat 1": ({"mirostat_mode": 1, "mirostat_tau": 1.5}, [zipf(1.5)]),
    "mirostat 2": (
        {"mirostat_mode": 2, "mirostat_tau": 1.7},
        [lambda x: keep(x, -np.log2(softmax(x)) <= 2 * 1.7)],
    ),
    "adaptive": ({"adaptive_target": 0.2}, [adaptive(0.2)]),
    "repetition": ({"repetition_penalty": 1.4}, [penalty(1.4, TEXT)]),
    "repetition in range": (
        {"repetition_penalty": 1.4, "repetition_penalty_range": 4}, [penalty(1.4, TEXT[-4:])]
    ),
    "presence": ({"presence_penalty": 1.3}, [occurrences(1.3, 0, TEXT)]),
    "frequency": ({"frequency_penalty": 0.6}, [occurrences(0, 0.6, TEXT)]),
    "frequency in range": (
        {"frequency_penalty": -0.6, "repetition_penalty_range": 5},
        [occurrences(0, -0.6, TEXT[-5:])],
    ),
    "encoder": ({"encoder_repetition_penalty": 1.3}, [penalty(1 / 1.3, TEXT)]),
    "dry": (
        {"dry_multiplier": 0.9, "dry_base": 1.6, "dry_allowed_length": 1,
         "dry_sequence_breakers": [":"]},
        [dry(0.9, 1.6, 1)],
    ),
    "ngram": ({"no_repeat_ngram_size": 2}, [no_repeat(2)]),
    "bans": ({"custom_token_bans": ["3", "12"]}, [without(3, 12)]),
    "ban of the end": ({"ban_eos_token": True}, [without(0)]),
    "bias": ({"logit_bias": ["3:1.5", "4:-100"]}, [lambda x: x + 1.5 * (np.arange(VOCAB) == 3)
                                                 - 100 * (np.arange(VOCAB) == 4)]),
    "the defaults": (
        {"repetition_penalty": 1.15, "temperature": 0.7, "top_k": 20, "top_p": 0.9},
        [penalty(1.15, TEXT), divided(0.7), largest(20), nucleus(0.9)],
    ),
    "temperature last": (
        {"temperature": 2, "top_p": 0.8, "min_p": 0.15, "temperature_last": True},
        [nucleus(0.8), share(0.15), divided(2)],
    ),
    "order by hand": (
        {"temperature": 2, "top_p": 0.7, "min_p": 0.15, "sampler_priority": ["min_p", "top_p"]},
        [share(0.15), nucleus(0.7), divided(2)],
    ),
    "penalty last by hand": (
        {"temperature": 2, "frequency_penalty": 1, "sampler_priority": ["temperature"]},
        [divided(2), occurrences(0, 1, TEXT)],
    ),
    "many": (
        {"presence_penalty": 0.5, "top_n_sigma": 2, "temperature": 1.3, "top_a": 0.9, "tfs": 0.8,
         "xtc_probability": 1, "xtc_threshold": 0.2},
        [occurrences(0.5, 0, TEXT), lambda x: keep(x, x >= x.max() - 2 * x.std()), divided(1.3),
         tail_free(0.8), lambda x: keep(x, softmax(x) >= 0.9 * softmax(x).max() ** 2), xtc(0.2)],
    ),
    "adaptive after a cut-off": (
        {"min_p": 0.1, "adaptive_target": 0.3, "temperature": 1.5, "temperature_last": True},
        [share(0.1), divided(1.5), adaptive(0.3)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_draws_follow_the_distribution_that_numpy_computes(name: str) -> None:
    changes, rules = EXPECTED[name]
    x = X
    for rule in rules:
        x = rule(x)
    expected = DRAWS * softmax(x)
    scores = sampler(**changes).process(torch.tensor(X, dtype=torch.float32), list(TEXT))
    generator = torch.Generator().manual_seed(99)
    drawn = torch.multinomial(scores.softmax(-1), DRAWS, replacement=True, generator=generator)
    counts = np.bincount(drawn.numpy(), minlength=VOCAB)
    assert counts[expected == 0].sum() == 0
    common = expected >= 5
    if (rare := (expected > 0) & ~common).any():
        expected = np.append(expected[common], expected[rare].sum())
        counts = np.append(counts[common], counts[rare].sum())
    else:
        expected, counts = expected[common], counts[common]
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    freedom = torch.tensor((len(expected) - 1) / 2)
    assert len(expected) == 1 or torch.special.gammaincc(freedom, torch.tensor(chi2 / 2)) > 1e-4


def test_each_rule_changes_the_distribution() -> None:
    for name, (_, rules) in EXPECTED.items():
        x = X
        for rule in rules:
            changed = softmax(rule(x))
            assert np.abs(changed - softmax(x)).sum() > 1e-3, name
            x = rule(x)


# -- what holds for all ----------------------------------------------------------------------


@pytest.mark.parametrize("name", knobs())
def test_a_knob_at_its_neutral_value_leaves_the_logits_bit_for_bit(name: str) -> None:
    logits = torch.tensor(X)
    assert sampler(**{"seed": 1, name: knobs()[name].neutral}).process(logits, TEXT) is logits


@pytest.mark.parametrize(
    "name",
    ["temperature_last", "repetition_penalty_range", "dry_base", "dry_allowed_length",
     "dry_sequence_breakers", "dynatemp_low", "dynatemp_high", "dynatemp_exponent",
     "smoothing_curve", "xtc_threshold", "mirostat_tau", "mirostat_eta", "adaptive_decay",
     "sampler_priority"],
)  # fmt: skip
def test_a_detail_of_a_sampler_that_is_off_changes_nothing(name: str) -> None:
    knob = knobs()[name]
    other: Any = True if knob.kind == "switch" else knob.maximum
    if knob.kind == "strings":
        other = ["xtc"]
    logits = torch.tensor(X)
    assert sampler(**{name: other}).process(logits, TEXT) is logits


def check_draws(params: SamplingParams, logits: torch.Tensor) -> None:
    draw = Sampler(params, frozenset({0}), lambda text: BREAKERS.get(text[1:], []))
    ids = list(TEXT)
    for _ in range(4):
        probabilities = draw.process(logits, ids).softmax(-1)
        assert probabilities.isfinite().all()
        assert float(probabilities.sum()) == pytest.approx(1, abs=1e-4)
        ids.append(int(probabilities.argmax()))


MAIN = {
    "dynamic_temperature": ("dynatemp_low", "dynatemp_high", "dynatemp_exponent"),
    "smoothing_factor": ("smoothing_curve",),
    "xtc_probability": ("xtc_threshold",),
    "mirostat_mode": ("mirostat_tau", "mirostat_eta"),
    "adaptive_target": ("adaptive_decay",),
    "dry_multiplier": ("dry_base", "dry_allowed_length"),
}
"""The switch of a sampler, and its details."""


def ends(knob: Knob) -> tuple[Any, Any]:
    return (False, True) if knob.kind == "switch" else (knob.minimum, knob.maximum)


@pytest.mark.parametrize(
    "name", [n for n, k in knobs().items() if k.kind in ("number", "integer") and n != "seed"]
)
def test_both_ends_of_a_range_leave_a_token(name: str) -> None:
    main = next((m for m, details in MAIN.items() if name in details), name)
    for end in ends(knobs()[name]):
        params = SamplingParams.neutral(**{main: ends(knobs()[main])[1], name: end})
        check_draws(params, torch.tensor(X, dtype=torch.float32))
        check_draws(params, torch.zeros(VOCAB))
        check_draws(params, torch.full((VOCAB,), -torch.inf).index_fill(0, torch.tensor(4), 1.0))


def values(knob: Knob) -> st.SearchStrategy[Any]:
    match knob.kind:
        case "switch":
            return st.booleans()
        case "integer":
            return st.integers(int(knob.minimum), int(knob.maximum))
        case "number":
            return st.floats(knob.minimum, knob.maximum)
        case "choice":
            return st.sampled_from(knob.choices)
        case "text":
            return st.text(max_size=9)
    if knob.choices:
        return st.lists(st.sampled_from(knob.choices), max_size=9)
    ids = st.integers(0, VOCAB + 3).map(str)
    if knob.label == "Logit bias":
        ids = st.tuples(ids, st.sampled_from(["100", "-100", "0.5"])).map(":".join)
    return st.lists(ids, max_size=40 if knob.pattern else 16)


ANY = st.fixed_dictionaries({}, optional={name: values(knob) for name, knob in knobs().items()})
LOGITS = st.lists(
    st.floats(-80, 80, width=32) | st.just(-math.inf), min_size=VOCAB, max_size=VOCAB
).filter(lambda x: max(x) > -math.inf)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(ANY, LOGITS)
def test_no_parameters_leave_nothing_to_draw(changes: dict[str, Any], logits: list[float]) -> None:
    check_draws(SamplingParams.neutral(**changes), torch.tensor(logits))
