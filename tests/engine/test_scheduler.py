"""Many requests, one model: what each gets, and what it never sees of the others."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest

from modules.engine.worker.llama.runner import LlamaRunner
from modules.engine.worker.scheduler import Scheduler
from modules.engine.worker.tokens import encode
from modules.loader.transformers_loader import LoadedModel
from tests.engine.helpers import PROMPT, Reply, Spy, ask, collect, serve

Run = Callable[..., dict[str, Reply]]
Make = Callable[..., Scheduler]
Reference = Callable[..., list[int]]

LONG = " ".join(["the capital of france is paris and rome"] * 6)


@pytest.fixture
def ids(tiny: LoadedModel) -> Callable[[str], list[int]]:
    return lambda text: encode(tiny.tokenizer, text, False)


@pytest.mark.parametrize("prompt", [PROMPT, "rome", LONG, "<|im_start|>user\nparis"])
def test_greedy_equals_generate(
    run: Run, spy: Spy, reference: Reference, ids: Callable[[str], list[int]], prompt: str
) -> None:
    run(ask(prompt=prompt, max_new_tokens=40))
    assert spy.replies["a"] == reference(ids(prompt), max_new_tokens=40)


def test_greedy_with_a_penalty_equals_generate(
    run: Run, spy: Spy, reference: Reference, ids: Callable[[str], list[int]]
) -> None:
    run(ask(repetition_penalty=1.3, max_new_tokens=40))
    expected = reference(ids(PROMPT), max_new_tokens=40, repetition_penalty=1.3)
    assert spy.replies["a"] == expected


@pytest.mark.parametrize("chunk", [1, 3, 17])
def test_a_prompt_in_chunks_is_the_prompt_at_once(run: Run, spy: Spy, chunk: int) -> None:
    run(ask("whole", LONG), prefill_chunk=1000)
    spy.forget()
    run(ask("chunks", LONG), prefill_chunk=chunk)
    assert spy.replies["chunks"] == spy.replies["whole"]


def test_a_seed_repeats_the_reply_whoever_else_is_served(run: Run, spy: Spy) -> None:
    seeded = {"do_sample": True, "temperature": 1.5, "seed": 5, "max_new_tokens": 30}
    run(ask("alone", **seeded))
    spy.forget()
    others = [ask(f"other{i}", "rome", do_sample=True, seed=i) for i in range(5)]
    run(*others[:3], ask("among", **seeded), *others[3:])
    assert spy.replies["among"] == spy.replies["alone"]
    assert spy.replies["other1"] != spy.replies["other2"]


def test_the_seed_in_use_is_reported(run: Run) -> None:
    assert run(ask(seed=99))["a"].finished.seed == 99
    assert run(ask(seed=-1))["a"].finished.seed >= 0


def test_the_same_prompt_again_is_not_computed_again(run: Run, spy: Spy) -> None:
    first = run(ask("first", LONG))["first"].finished.usage
    again = run(ask("again", LONG))["again"].finished.usage
    assert first.cached_tokens == 0
    assert again.cached_tokens == spy.shared(again.prompt_tokens - 1) > 30
    assert spy.replies["again"] == spy.replies["first"]


def test_the_next_turn_reuses_the_turn_before(
    run: Run, spy: Spy, reference: Reference, ids: Callable[[str], list[int]]
) -> None:
    turn = LONG + run(ask("first", LONG))["first"].text + " and the capital of italy is"
    usage = run(ask("second", turn))["second"].finished.usage
    assert usage.cached_tokens >= spy.shared(len(ids(LONG)) - 1)
    assert spy.replies["second"] == reference(ids(turn), max_new_tokens=12)


def test_a_shared_beginning_is_copied_and_not_stolen(run: Run, spy: Spy) -> None:
    run(ask("long", LONG))
    branch = run(ask("branch", LONG[:120] + " italy"))["branch"].finished.usage
    again = run(ask("again", LONG))["again"].finished.usage
    assert branch.cached_tokens > 5
    assert again.cached_tokens == spy.shared(again.prompt_tokens - 1)
    assert spy.replies["again"] == spy.replies["long"]


@pytest.mark.parametrize(("banned", "reason"), [(False, "stop"), (True, "length")])
def test_what_a_template_ends_a_turn_with_can_be_banned_too(
    run: Run, banned: bool, reason: str
) -> None:
    # The bias makes <|im_start|>, token 1, what the model would always say.
    asked = ask(ban_eos_token=banned, logit_bias=("1:100",))
    reply = run(dataclasses.replace(asked, stop=("<|im_start|>",)))["a"]
    assert reply.finished.reason == reason


def test_two_replies_grow_side_by_side(make_scheduler: Make) -> None:
    scheduler, replies = make_scheduler(), {}
    for name in ("a", "b"):
        scheduler.add(ask(name, ban_eos_token=True, max_new_tokens=10))
    for _ in range(6):
        collect(replies, scheduler.step())
    assert abs(replies["a"].tokens - replies["b"].tokens) <= 1
    assert replies["b"].tokens >= 4


def test_a_long_prompt_does_not_stall_a_running_reply(make_scheduler: Make) -> None:
    scheduler, replies = make_scheduler(prefill_chunk=4), {}
    scheduler.add(ask("short", "is", ban_eos_token=True, max_new_tokens=10))
    collect(replies, scheduler.step())
    scheduler.add(ask("long", LONG))
    for _ in range(8):
        collect(replies, scheduler.step())
    assert replies["short"].tokens == 9
    assert "long" not in replies


def test_a_short_prompt_overtakes_a_long_one(make_scheduler: Make) -> None:
    scheduler, replies = make_scheduler(prefill_chunk=4), {}
    scheduler.add(ask("long", LONG))
    scheduler.add(ask("short", "is", ban_eos_token=True))
    for _ in range(4):
        collect(replies, scheduler.step())
    assert set(replies) == {"short"}


def test_cancelling_one_leaves_the_other_as_it_was(
    make_scheduler: Make, run: Run, spy: Spy
) -> None:
    run(ask("alone", "rome", ban_eos_token=True))
    scheduler, replies = make_scheduler(), {}
    scheduler.add(ask("gone", ban_eos_token=True))
    scheduler.add(ask("stays", "rome", ban_eos_token=True))
    for _ in range(4):
        collect(replies, scheduler.step())
    scheduler.cancel("gone")
    while scheduler.has_work:
        collect(replies, scheduler.step())
    assert replies["gone"].finished.reason == "cancelled"
    assert replies["gone"].tokens == replies["gone"].finished.usage.completion_tokens < 12
    assert spy.replies["stays"] == spy.replies["alone"]


def test_a_request_can_be_cancelled_while_it_waits_or_prefills(make_scheduler: Make) -> None:
    scheduler = make_scheduler(prefill_chunk=4, max_running=1)
    scheduler.add(ask("prefills", LONG))
    scheduler.add(ask("waits"))
    scheduler.step()
    scheduler.cancel("waits")
    scheduler.cancel("prefills")
    scheduler.cancel("never heard of")
    ends = {event.id: event.reason for event in scheduler.step()}
    assert ends == {"waits": "cancelled", "prefills": "cancelled"}
    assert not scheduler.has_work


def test_more_requests_than_places_are_all_served(run: Run) -> None:
    replies = run(*(ask(f"{i}", max_new_tokens=3) for i in range(7)), max_running=2)
    assert len(replies) == 7
    assert all(reply.finished for reply in replies.values())


@pytest.mark.parametrize("limit", [1, 2, 9])
def test_the_token_limit_ends_a_reply(run: Run, limit: int) -> None:
    reply = run(ask(max_new_tokens=limit, ban_eos_token=True))["a"]
    assert reply.finished.reason == "length"
    assert reply.tokens == reply.finished.usage.completion_tokens == limit


def test_the_end_of_the_context_ends_a_reply(run: Run) -> None:
    reply = run(ask(max_new_tokens=500, ban_eos_token=True), context_length=30)["a"]
    assert reply.finished.reason == "length"
    assert reply.finished.usage.prompt_tokens + reply.tokens == 30


def test_a_prompt_that_fills_the_context_is_refused(run: Run) -> None:
    failed = run(ask(prompt=LONG), context_length=30)["a"].failed
    assert failed.kind == "PromptTooLongError"
    assert "30" in failed.message


def test_truncation_length_makes_the_context_shorter(run: Run) -> None:
    assert run(ask(prompt=LONG, truncation_length=16))["a"].failed.kind == "PromptTooLongError"


def test_a_stop_string_ends_a_reply_before_it(run: Run) -> None:
    whole = run(ask("whole", ban_eos_token=True, max_new_tokens=30))["whole"].text
    stop = whole[len(whole) // 2 :][:3]
    reply = run(ask("cut", ban_eos_token=True, max_new_tokens=30, stop=(stop,)))["cut"]
    assert reply.text == whole[: whole.index(stop)]
    assert reply.finished.reason == "stop"


def test_the_end_token_ends_a_reply_and_is_not_shown(run: Run) -> None:
    loose = {"do_sample": True, "temperature": 3, "max_new_tokens": 100}
    replies = (run(ask(seed=seed, **loose))["a"] for seed in range(200))
    reply = next(reply for reply in replies if reply.finished.reason == "stop")
    assert "<|im_end|>" not in reply.text
    assert reply.tokens == reply.finished.usage.completion_tokens < 100
    endless = run(ask(seed=reply.finished.seed, ban_eos_token=True, **loose))["a"]
    assert endless.finished.reason == "length"


def test_an_empty_prompt_begins_at_the_beginning(run: Run, spy: Spy, reference: Reference) -> None:
    assert run(ask(prompt=""))["a"].finished.usage.prompt_tokens == 1
    assert spy.replies["a"] == reference([1], max_new_tokens=12)


def test_logprobs_come_with_each_token(run: Run, tiny: LoadedModel, spy: Spy) -> None:
    reply = run(ask(logprobs=3, temperature=0.5, ban_eos_token=True))["a"]
    found = [logprob for chunk in reply.chunks for logprob in chunk.logprobs]
    assert [f.text for f in found] == [tiny.tokenizer.decode([i]) for i in spy.replies["a"]]
    for logprob in found:
        assert len(logprob.top) == 3
        assert logprob.logprob <= 0
        assert sum(math.exp(value) for _, value in logprob.top) <= 1.0001
    assert run(ask())["a"].chunks[0].logprobs == ()


def test_numbers_that_are_none_fail_their_own_request_alone(run: Run, spy: Spy) -> None:
    spy.poison["bad"] = math.nan
    replies = run(ask("bad", ban_eos_token=True), ask("good", ban_eos_token=True))
    assert "not finite" in replies["bad"].failed.message
    assert replies["good"].finished.reason == "length"


def test_running_out_of_memory_fails_one_request_with_a_remedy(run: Run, spy: Spy) -> None:
    spy.out_of_memory.add("big")
    replies = run(ask("big", ban_eos_token=True), ask("small", ban_eos_token=True))
    assert "Memory ran out" in replies["big"].failed.message
    assert "smaller" in replies["big"].failed.remedy
    assert replies["small"].finished.reason == "length"


def test_a_forward_that_fails_in_the_middle_leaves_no_cache_behind(
    make_scheduler: Make, spy: Spy, tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        # The transformers model's own second layer, and the step after the cache is written.
        patch.setattr(tiny.model.model.layers[1], "forward", broken)
        if isinstance(spy.inner, LlamaRunner):
            patch.setattr(spy.inner._model, "logits", broken)
        failed = serve(make_scheduler(), [ask("broken", LONG)])["broken"].failed
    assert "Memory ran out" in failed.message
    usage = serve(make_scheduler(), [ask("after", LONG)])["after"].finished.usage
    assert usage.cached_tokens == 0
    assert spy.held() == set()


def test_a_runner_that_fails_for_all_ends_all_and_serves_the_next(
    make_scheduler: Make, spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(seqs: object) -> None:
        raise RuntimeError("kernel launch failed")

    with monkeypatch.context() as patch:
        patch.setattr(spy, "decode", broken)
        replies = serve(make_scheduler(), [ask("a", ban_eos_token=True)])
    assert "kernel launch failed" in replies["a"].failed.message
    assert serve(make_scheduler(), [ask("b", ban_eos_token=True)])["b"].finished


def test_times_are_measured_in_order(run: Run) -> None:
    usage = run(ask(ban_eos_token=True))["a"].finished.usage
    assert usage.first_token_s > 0
    assert usage.decode_s > 0
    assert usage.tokens_per_s > 0
