"""Guidance, against transformers' processor, and what becomes of its second context."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import UnbatchedClassifierFreeGuidanceLogitsProcessor

from tests.engine.decoding.conftest import Lab
from tests.engine.helpers import ENDLESS, Reply, ask, collect

MakeLab = Callable[[int], Lab]
NEGATIVE = "the capital of italy is rome and"
LONG = " ".join(["the capital of france is paris and rome"] * 6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scale", [-0.5, 0.0, 0.7, 1.5, 2.5])
@pytest.mark.parametrize("negative", ["", NEGATIVE])
def test_it_equals_generate(make_lab: MakeLab, seed: int, scale: float, negative: str) -> None:
    lab = make_lab(seed)
    reply = lab.reply(ask(guidance_scale=scale, negative_prompt=negative, max_new_tokens=20))
    theirs: dict[str, Any] = {"guidance_scale": scale, "max_new_tokens": 20}
    if negative:
        theirs["negative_prompt_ids"] = torch.tensor([lab.ids(negative)])
    assert reply == lab.generate(lab.ids(), **theirs)
    assert lab.held() == set()


def test_its_logits_are_those_of_the_processor(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        "modules.engine.worker.sampler.Sampler.sample",
        lambda self, logits, ids: seen.append((logits, list(ids))) or 7,
    )
    lab.reply(ask(guidance_scale=1.8, negative_prompt=NEGATIVE, max_new_tokens=6))
    theirs = UnbatchedClassifierFreeGuidanceLogitsProcessor(
        1.8, lab.model, torch.tensor([lab.ids(NEGATIVE)])
    )
    assert len(seen) == 6
    for logits, ids in seen:
        row = torch.tensor([ids])
        with torch.inference_mode():
            expected = theirs(row, lab.model(row).logits[:, -1])[0]
        torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 5])
def test_the_second_prompt_comes_in_chunks_too(lab: Lab, chunk: int) -> None:
    options: dict[str, Any] = {"guidance_scale": 1.7, "negative_prompt": LONG}
    expected = lab.reply(ask("whole", **options), prefill_chunk=1000)
    lab.spy.forget()
    scheduler, replies = lab.scheduler(prefill_chunk=chunk), dict[str, Reply]()
    scheduler.add(ask("plain", "is", **ENDLESS))
    collect(replies, scheduler.step())
    scheduler.add(ask("chunks", **options))
    for _ in range(8):
        collect(replies, scheduler.step())
    assert replies["plain"].tokens == 9
    while "chunks" not in lab.spy.replies:
        collect(replies, scheduler.step())
    assert lab.spy.replies["chunks"] == expected


def test_kept_caches_of_the_two_prompts_serve_each_what_begins_alike(lab: Lab) -> None:
    negative = " ".join([NEGATIVE] * 4)
    options: dict[str, Any] = {"guidance_scale": 1.7, "negative_prompt": negative}
    first = lab.run(ask("first", LONG, **options))["first"].finished.usage
    again = lab.run(ask("again", LONG, **options))["again"].finished.usage
    plain = lab.run(ask("plain", negative))["plain"].finished.usage
    assert first.cached_tokens == 0
    assert again.cached_tokens == lab.spy.shared(again.prompt_tokens - 1) > 30
    assert plain.cached_tokens == lab.spy.shared(plain.prompt_tokens - 1) > 15
    assert lab.spy.replies["again"] == lab.spy.replies["first"]
    assert lab.spy.replies["plain"] == lab.generate(lab.ids(negative), max_new_tokens=12)


@pytest.mark.parametrize("steps", [1, 3, 12])
def test_a_cancel_frees_both_caches(lab: Lab, steps: int) -> None:
    scheduler = lab.scheduler(prefill_chunk=10)
    scheduler.add(ask(guidance_scale=2, negative_prompt=LONG, **ENDLESS))
    for _ in range(steps):
        scheduler.step()
    assert len(lab.held()) == 2
    scheduler.cancel("a")
    assert lab.held() == set()


def test_a_failure_of_the_second_context_is_the_requests(lab: Lab) -> None:
    lab.spy.out_of_memory.add("a/negative")
    replies = lab.run(ask(guidance_scale=2, **ENDLESS), ask("b", ban_eos_token=True))
    assert "Memory ran out" in replies["a"].failed.message
    assert replies["b"].tokens == 12
    assert lab.held() == set()


def test_the_longer_of_the_two_contexts_ends_the_reply(lab: Lab) -> None:
    request = ask(guidance_scale=2, negative_prompt=LONG, **ENDLESS)
    usage = lab.run(request, context_length=100)["a"].finished.usage
    assert usage.completion_tokens == 100 - len(lab.ids(LONG))


def test_a_negative_prompt_that_fills_the_context_is_refused(lab: Lab) -> None:
    request = ask(guidance_scale=2, negative_prompt=LONG)
    failed = lab.run(request, context_length=30)["a"].failed
    assert failed.kind == "PromptTooLongError"
    assert "negative prompt" in failed.message


def test_a_seed_repeats_a_guided_reply(lab: Lab) -> None:
    options: dict[str, Any] = {"do_sample": True, "seed": 3, "max_new_tokens": 30}
    guided = {**options, "guidance_scale": 1.5, "negative_prompt": NEGATIVE}
    assert lab.reply(ask("a", **guided)) == lab.reply(ask("b", **guided))
    assert lab.reply(ask("c", **options)) != lab.spy.replies["a"]


def test_special_tokens_of_the_negative_prompt_are_as_in_the_request(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(
        "modules.engine.worker.decoding.choice.encode",
        lambda tokenizer, text, special: seen.append(special) or lab.ids(text),
    )
    for special in (True, False):
        lab.run(ask(guidance_scale=2, negative_prompt=NEGATIVE, special_tokens=special))
    assert seen == [True, False]
