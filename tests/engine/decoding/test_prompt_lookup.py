"""Prompt lookup: the same reply, in fewer forwards."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from modules.engine.worker.decoding import prompt_lookup
from modules.engine.worker.decoding.prompt_lookup import PromptLookup
from modules.engine.worker.flights import Flights
from modules.engine.worker.llama.runner import LlamaRunner
from modules.engine.worker.sampler import Sampler
from modules.engine.worker.sampling.batch.sampler import BatchSampler
from tests.engine.decoding.conftest import Lab
from tests.engine.helpers import Reply, ask, collect

MakeLab = Callable[[int], Lab]
REPEATING = "the capital of france is paris and the capital of italy is rome. " * 3
LOOKUP = {"prompt_lookup_num_tokens": 6}


@pytest.fixture(autouse=True)
def steady_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A draft takes what a token takes, however busy the machine is."""
    clock = SimpleNamespace(perf_counter=partial(next, itertools.count()))
    monkeypatch.setattr(prompt_lookup, "time", clock)


@pytest.fixture
def forwards(lab: Lab) -> list[int]:
    """How many tokens each forward computed."""
    return lab.spy.computed


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [1, 4, 10])
def test_a_greedy_reply_is_the_same(make_lab: MakeLab, seed: int, count: int) -> None:
    lab = make_lab(seed)
    plain = lab.reply(ask("plain", REPEATING, max_new_tokens=80))
    assert (
        lab.reply(ask(prompt=REPEATING, max_new_tokens=80, prompt_lookup_num_tokens=count)) == plain
    )


@pytest.mark.parametrize("seed", range(25))
def test_a_seeded_reply_is_the_same(lab: Lab, seed: int) -> None:
    options: dict[str, Any] = {
        "prompt": REPEATING,
        "do_sample": True,
        "seed": seed,
        "temperature": 0.1 + 0.05 * seed,
        "max_new_tokens": 60,
    }
    more: list[dict[str, Any]] = [
        {},
        {"mirostat_mode": 2, "mirostat_tau": 2.0},
        {"xtc_probability": 0.5, "xtc_threshold": 0.05},
        {"adaptive_target": 0.3, "repetition_penalty": 1.1},
        {"min_length": 40, "logit_bias": ("2:4",)},
    ]
    options |= more[seed % 5]
    plain = lab.reply(ask("plain", **options))
    assert lab.reply(ask("looked up", **options, **LOOKUP)) == plain


def test_text_that_repeats_takes_fewer_forwards(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, forwards: list[int]
) -> None:
    period = [40, 41, 42, 43, 44]
    monkeypatch.setattr(Sampler, "sample", lambda self, logits, ids: period[len(ids) % 5])
    lab.reply(ask(prompt="rome", max_new_tokens=100, **LOOKUP))
    steps = forwards[1:]
    assert len(steps) < 25
    assert max(steps) == 7


def test_drafts_that_fail_cease(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, forwards: list[int]
) -> None:
    words = iter(range(3, 300))
    new = [lambda: 40, lambda: 41, lambda: next(words)]
    monkeypatch.setattr(Sampler, "sample", lambda self, logits, ids: new[len(ids) % 3]())
    lab.reply(ask(prompt="rome", max_new_tokens=200, **LOOKUP))
    assert 1 < sum(count > 1 for count in forwards[1:]) < 5


@pytest.mark.parametrize("limit", range(1, 12))
def test_the_limit_holds_within_a_draft(lab: Lab, limit: int) -> None:
    options: dict[str, Any] = {"prompt": REPEATING, "ban_eos_token": True, "max_new_tokens": limit}
    plain = lab.reply(ask("plain", **options))
    replies = lab.run(ask(**options, prompt_lookup_num_tokens=10))
    assert lab.spy.replies["a"] == plain
    assert replies["a"].finished.reason == "length"


def test_the_context_is_never_left(lab: Lab) -> None:
    request = ask(prompt=REPEATING, ban_eos_token=True, max_new_tokens=500, **LOOKUP)
    length = len(lab.ids(REPEATING)) + 21
    usage = lab.run(request, context_length=length)["a"].finished.usage
    assert usage.completion_tokens == 21


def test_a_stop_string_within_a_draft_ends_the_reply_and_the_cache_serves_the_next(
    lab: Lab,
) -> None:
    options: dict[str, Any] = {"prompt": REPEATING, "ban_eos_token": True, "max_new_tokens": 60}
    whole = lab.run(ask("plain", **options))["plain"].text
    for place in range(20, 50, 5):
        stop = whole[place : place + 3]
        expected = lab.run(ask("p", **options, stop=(stop,)))["p"]
        found = lab.run(ask("f", **options, stop=(stop,), **LOOKUP))["f"]
        assert (found.text, found.finished.reason) == (expected.text, "stop")
        assert lab.spy.replies["f"] == lab.spy.replies["p"]
        assert lab.run(ask("next", **options))["next"].text == whole


def test_log_probabilities_come_with_each_token(lab: Lab) -> None:
    options: dict[str, Any] = {"prompt": REPEATING, "max_new_tokens": 40, "logprobs": 2}
    plain = lab.run(ask("plain", **options))["plain"]
    found = lab.run(ask("found", **options, **LOOKUP))["found"]
    for ours, theirs in zip(found.chunks, plain.chunks, strict=True):
        for a, b in zip(ours.logprobs, theirs.logprobs, strict=True):
            assert a.text == b.text
            assert a.logprob == pytest.approx(b.logprob, abs=1e-4)


def test_a_cancel_frees_it(lab: Lab) -> None:
    scheduler, replies = lab.scheduler(), dict[str, Reply]()
    scheduler.add(ask(prompt=REPEATING, ban_eos_token=True, max_new_tokens=100, **LOOKUP))
    for _ in range(6):
        collect(replies, scheduler.step())
    scheduler.cancel("a")
    assert lab.held() == set()


def test_the_draft_follows_the_longest_match_and_of_these_the_latest(lab: Lab) -> None:
    def drafted(*ids: int) -> list[int]:
        seq = lab.scheduler()._sequence(ask(prompt_lookup_num_tokens=2, max_new_tokens=200))
        seq.token_ids[:] = ids
        return PromptLookup(seq, lab.spy)._drafted()

    assert drafted(1, 2, 3, 50, 60, 9, 2, 3, 70, 80, 1, 2, 3) == [50, 60]
    assert drafted(1, 2, 3, 50, 60, 1, 2, 3, 70, 80, 1, 2, 3) == [70, 80]
    assert drafted(9, 9, 9) == [9, 9]
    assert drafted(1, 2, 3, 4) == []
    assert drafted(7) == []


@pytest.mark.parametrize(
    "params",
    [{}, {"do_sample": True, "temperature": 0.8, "top_k": 5}, {"repetition_penalty": 1.2}],
)
def test_between_its_drafts_it_flies_and_says_the_same(lab: Lab, params: dict[str, object]) -> None:
    if not isinstance(lab.spy.inner, LlamaRunner):
        pytest.skip("only the fast runner flies")
    asked = {"max_new_tokens": 60, "ban_eos_token": True, "seed": 3, **params}
    repeated = "the capital of france is paris and " * 4
    plain = lab.reply(ask("plain", repeated, **asked))
    flights = Flights(lab.spy, BatchSampler(len(lab.tokenizer), torch.device("cpu")))
    lab.run(ask("flies", repeated, prompt_lookup_num_tokens=8, **asked), flights=flights)
    assert lab.spy.replies["flies"] == plain
