"""Beam search, token for token against transformers' own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from modules.engine.worker.runner import TransformersRunner
from tests.engine.decoding.conftest import Lab
from tests.engine.helpers import ENDLESS, PROMPT, Reply, ask, collect

MakeLab = Callable[[int], Lab]
LONG = " ".join(["the capital of france is paris and rome"] * 6)
PROMPTS = (PROMPT, "rome", "the capital of italy is rome and the capital")


def likely_end(bias: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The end token made likely: for us, and for transformers."""
    return {"logit_bias": (f"2:{bias}",)}, {"sequence_bias": [[[2], float(bias)]]}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("beams", "early", "penalty"),
    [(2, False, 1.0), (4, True, 1.4), (3, False, -2.0), (5, False, 0.0), (20, True, 1.0)],
)
@pytest.mark.parametrize("bias", [0, 3, 6])
def test_it_equals_generate(
    make_lab: MakeLab, seed: int, beams: int, early: bool, penalty: float, bias: int
) -> None:
    lab = make_lab(seed)
    ours, theirs = likely_end(bias) if bias else ({}, {})
    prompt = PROMPTS[seed % 3]
    options: dict[str, Any] = {
        "num_beams": beams,
        "early_stopping": early,
        "length_penalty": penalty,
        "max_new_tokens": 14,
    }
    reply = lab.reply(ask(prompt=prompt, **options, **ours))
    assert reply == lab.generate(lab.ids(prompt), **options, **theirs)
    assert lab.held() == set()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"repetition_penalty": 1.4}, {}),
        ({"no_repeat_ngram_size": 2}, {}),
        (
            {"min_length": 9, "logit_bias": ("2:8",)},
            {"min_new_tokens": 9, "sequence_bias": [[[2], 8.0]]},
        ),
        ({"custom_token_bans": ("5", "9", "60")}, {"suppress_tokens": [5, 9, 60]}),
    ],
)
def test_with_processors_it_equals_generate(
    make_lab: MakeLab, seed: int, ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    lab = make_lab(seed)
    reply = lab.reply(ask(num_beams=3, max_new_tokens=14, **ours))
    theirs = theirs or ours
    assert reply == lab.generate(lab.ids(), num_beams=3, max_new_tokens=14, **theirs)


@pytest.mark.parametrize("seed", range(4))
def test_a_stop_string_ends_a_beam_as_in_generate(make_lab: MakeLab, seed: int) -> None:
    lab = make_lab(seed)
    whole = lab.run(ask(num_beams=3, max_new_tokens=30, ban_eos_token=True))["a"].text
    stop = whole[len(whole) // 3 :][:2]
    reply = lab.run(ask(num_beams=3, max_new_tokens=30, ban_eos_token=True, stop=(stop,)))["a"]
    theirs = lab.generate(
        lab.ids(),
        num_beams=3,
        max_new_tokens=30,
        suppress_tokens=[2],
        stop_strings=[stop],
        tokenizer=lab.tokenizer,
    )
    told = str(lab.tokenizer.decode(theirs))
    assert stop not in reply.text
    assert reply.text == told.partition(stop)[0].rstrip("\N{REPLACEMENT CHARACTER}")


def test_more_beams_find_a_likelier_reply(lab: Lab) -> None:
    def likelihood(**options: Any) -> float:
        reply = lab.run(ask(logprobs=0, ban_eos_token=True, **options))["a"]
        assert len(reply.chunks) >= 12
        return sum(told.logprob for chunk in reply.chunks for told in chunk.logprobs)

    assert likelihood(num_beams=8) > likelihood() + 0.1


def test_what_is_shown_is_never_taken_back(lab: Lab) -> None:
    scheduler, replies = lab.scheduler(), dict[str, Reply]()
    scheduler.add(ask(num_beams=4, max_new_tokens=60, no_repeat_ngram_size=2))
    shown = set()
    while scheduler.has_work:
        collect(replies, scheduler.step())
        shown.add(replies["a"].tokens if "a" in replies else 0)
    theirs = lab.generate(lab.ids(), num_beams=4, max_new_tokens=60, no_repeat_ngram_size=2)
    assert lab.spy.replies["a"] == theirs
    assert len(shown) > 3, "some of it comes before the end"


def test_beams_make_a_step_each_and_others_keep_streaming(lab: Lab) -> None:
    scheduler, replies = lab.scheduler(), dict[str, Reply]()
    scheduler.add(ask("beams", num_beams=5, **ENDLESS))
    scheduler.add(ask("plain", **ENDLESS))
    for _ in range(12):
        collect(replies, scheduler.step())
    assert replies["plain"].tokens == 11


def test_a_cancel_frees_every_beam_and_tells_what_was_shown(lab: Lab) -> None:
    scheduler, replies = lab.scheduler(), dict[str, Reply]()
    scheduler.add(ask(num_beams=6, **ENDLESS))
    for _ in range(20):
        collect(replies, scheduler.step())
    assert len(lab.held()) == 7
    scheduler.cancel("a")
    collect(replies, scheduler.step())
    assert lab.held() == set()
    assert replies["a"].finished.reason == "cancelled"
    assert replies["a"].tokens == replies["a"].finished.usage.completion_tokens


def test_a_forward_that_fails_frees_every_beam(lab: Lab) -> None:
    scheduler, replies = lab.scheduler(), dict[str, Reply]()
    scheduler.add(ask(num_beams=3, **ENDLESS))
    scheduler.add(ask("plain", ban_eos_token=True))
    collect(replies, scheduler.step())
    collect(replies, scheduler.step())
    lab.spy.out_of_memory.update({f"a/beam{n}" for n in range(50)})
    while scheduler.has_work:
        collect(replies, scheduler.step())
    assert "Memory ran out" in replies["a"].failed.message
    assert replies["plain"].tokens == 12
    assert lab.held() == set()


@pytest.mark.parametrize(("context", "tokens"), [(20, None), (256, 5)])
def test_it_ends_with_the_limit_and_with_the_context(
    lab: Lab, context: int, tokens: int | None
) -> None:
    request = ask(num_beams=3, ban_eos_token=True, max_new_tokens=tokens or 500)
    usage = lab.run(request, context_length=context)["a"].finished.usage
    assert usage.completion_tokens == (tokens or context - usage.prompt_tokens)


def test_the_prompt_is_kept_and_no_beam_is(lab: Lab) -> None:
    lab.run(ask("first", LONG, num_beams=4))
    if isinstance(lab.spy.inner, TransformersRunner):
        assert len(lab.spy.inner._kept._entries) == 1
    usage = lab.run(ask("again", LONG, num_beams=4))["again"].finished.usage
    assert usage.cached_tokens == lab.spy.shared(usage.prompt_tokens - 1) > 30
    assert lab.spy.replies["again"] == lab.spy.replies["first"]
