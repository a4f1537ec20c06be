"""Replies that are computed a step ahead are the replies that they would be otherwise."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from modules.engine.protocol import Failed, GenerateRequest, LoadAdapter, UnloadAdapter
from modules.engine.worker.flights import Flights
from modules.engine.worker.llama.blocks import BLOCK
from modules.engine.worker.sampling.batch.sampler import BatchSampler
from modules.engine.worker.scheduler import Scheduler
from modules.engine.worker.tokens import encode, end_ids
from modules.loader.transformers_loader import LoadedModel
from tests.engine.conftest import CONTEXT
from tests.engine.helpers import ENDLESS, PROMPT, Reply, Spy, ask, collect
from tests.engine.lora import make_adapter
from tests.engine.runners import llama_runner
from tests.engine.test_methods import METHODS

LONG = " ".join(["the capital of france is paris and rome"] * 6)
PROMPTS = (PROMPT, "rome", LONG, "<|im_start|>user\nparis", "italy and paris")
LOOSE: dict[str, Any] = {"do_sample": True, "temperature": 1.6, "max_new_tokens": 40}


class Desk:
    """A scheduler over a small cache, with or without flights, and what it said."""

    def __init__(self, tiny: LoadedModel, tokens: int, flying: bool, **options: int) -> None:
        runner = llama_runner(tiny.model, CONTEXT, tokens)
        self.spy = Spy(runner)
        self.pool = runner._pool
        device = torch.device("cpu")
        vocabulary = runner._model.shape.vocabulary
        self.scheduler = Scheduler(
            self.spy,
            tiny.tokenizer,
            end_ids(tiny.model.generation_config, tiny.tokenizer),
            **{"context_length": CONTEXT, **options},
            flights=Flights(self.spy, BatchSampler(vocabulary, device)) if flying else None,
        )
        self.replies: dict[str, Reply] = {}

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            collect(self.replies, self.scheduler.step())

    def finish(self) -> None:
        for _ in range(5000):
            if not self.scheduler.has_work:
                break
            self.step()
        assert not self.scheduler.has_work, "it comes to an end"
        assert self.spy.held() == set()
        assert self.pool.used == 0

    def run(self, *requests: GenerateRequest) -> dict[str, Reply]:
        for request in requests:
            self.scheduler.add(request)
        self.finish()
        return self.replies

    def said(self, name: str) -> tuple[list[int], str, str]:
        """The tokens of a reply, its text, and why it ended."""
        reply = self.replies[name]
        assert reply.tokens == reply.finished.usage.completion_tokens
        return self.spy.replies[name], reply.text, reply.finished.reason


Open = Callable[..., Desk]


@pytest.fixture
def desk(tiny: LoadedModel) -> Open:
    """Makes a desk that flies, unless told otherwise."""

    def desk(tokens: int = 4 * CONTEXT, flying: bool = True, **options: int) -> Desk:
        return Desk(tiny, tokens, flying, **options)

    return desk


def alone(desk: Open, requests: Iterable[GenerateRequest], flying: bool = False) -> dict[str, Any]:
    """What each request gets where nobody else is, in a cache of its own."""
    found = {}
    for request in requests:
        one = desk(flying=flying)
        one.run(request)
        found[request.id] = one.said(request.id)
    return found


# -- the same replies ---------------------------------------------------------------------


def test_greedy_replies_are_those_without_flights(desk: Open) -> None:
    asked = [ask(f"{i}", text, max_new_tokens=40) for i, text in enumerate(PROMPTS)]
    flown, plain = desk(), desk(flying=False)
    flown.run(*asked)
    plain.run(*asked)
    for request in asked:
        assert flown.said(request.id) == plain.said(request.id)


def test_a_greedy_reply_equals_generate(
    desk: Open, tiny: LoadedModel, reference: Callable[..., list[int]]
) -> None:
    flown = desk()
    flown.run(ask(max_new_tokens=60))
    ids = encode(tiny.tokenizer, PROMPT, False)
    assert flown.spy.replies["a"] == reference(ids, max_new_tokens=60)


SETTINGS: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.3, "top_p": 0.9},
    {"mirostat_mode": 2, "mirostat_tau": 3.0},
    {"xtc_probability": 0.5, "xtc_threshold": 0.05, "min_p": 0.01},
    {"adaptive_target": 0.3, "frequency_penalty": 0.4},
    {"dry_multiplier": 0.8, "no_repeat_ngram_size": 3, "top_k": 40},
]


def test_a_seed_repeats_the_reply_whoever_else_is_served(desk: Open) -> None:
    asked = [ask(f"{i}", PROMPTS[i % 5], **LOOSE, seed=i, **SETTINGS[i % 6]) for i in range(12)]
    expected = alone(desk, asked, flying=True)
    assert len({tuple(tokens) for tokens, *_ in expected.values()}) == 12
    for order in (asked, asked[::-1]):
        together = desk()
        together.run(*order)
        for request in asked:
            assert together.said(request.id) == expected[request.id]


@pytest.mark.parametrize("settings", SETTINGS[1:])
def test_greedy_replies_with_parameters_are_those_without_flights(
    desk: Open, settings: dict[str, Any]
) -> None:
    greedy = {key: value for key, value in settings.items() if "penalty" in key or "dry" in key}
    asked = [ask(f"{i}", text, max_new_tokens=40, **greedy) for i, text in enumerate(PROMPTS)]
    flown = desk()
    flown.run(*asked)
    expected = alone(desk, asked)
    assert {request.id: flown.said(request.id) for request in asked} == expected


def test_requests_come_and_go_at_any_time(desk: Open) -> None:
    chance = random.Random(3)
    asked = [ask(f"{i}", PROMPTS[i % 5], max_new_tokens=chance.randint(1, 40)) for i in range(24)]
    expected = alone(desk, asked)
    busy = desk(8 * CONTEXT, max_running=5, prefill_chunk=13)
    for request in asked:
        busy.scheduler.add(request)
        busy.step(chance.randint(0, 4))
    busy.finish()
    assert {request.id: busy.said(request.id) for request in asked} == expected


# -- how a reply ends ---------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 3, 9])
def test_the_token_limit_ends_a_reply(desk: Open, limit: int) -> None:
    asked = [ask("a", max_new_tokens=limit, ban_eos_token=True), ask("b", LONG)]
    flown = desk()
    flown.run(*asked)
    assert len(flown.said("a")[0]) == limit
    assert flown.replies["a"].finished.reason == "length"
    assert flown.said("b") == alone(desk, asked)["b"]


def test_the_end_of_the_context_ends_a_reply(desk: Open) -> None:
    flown = desk(context_length=30)
    usage = flown.run(ask(**ENDLESS))["a"].finished.usage
    assert usage.prompt_tokens + usage.completion_tokens == 30


@pytest.mark.parametrize("where", [3, 10, 20])
def test_a_stop_string_ends_a_reply_before_it(desk: Open, where: int) -> None:
    whole = desk().run(ask(ban_eos_token=True, max_new_tokens=40))["a"].text
    asked = [
        ask("cut", ban_eos_token=True, max_new_tokens=40, stop=(whole[where:][:3],)),
        ask("goes on", "rome", max_new_tokens=40),
    ]
    flown = desk()
    flown.run(*asked)
    assert flown.replies["cut"].finished.reason == "stop"
    assert {request.id: flown.said(request.id) for request in asked} == alone(desk, asked)


def test_an_end_token_ends_a_reply_and_is_not_shown(desk: Open) -> None:
    asked = [ask(f"{seed}", **LOOSE, seed=seed, logit_bias=("2:4",)) for seed in range(12)]
    flown = desk()
    flown.run(*asked)
    ends = [flown.said(request.id) for request in asked]
    assert {reason for *_, reason in ends} == {"stop", "length"}
    assert not any(2 in tokens or "<|im_end|>" in text for tokens, text, _ in ends)
    assert len({len(tokens) for tokens, *_ in ends}) > 4
    expected = alone(desk, asked, flying=True)
    assert {request.id: flown.said(request.id) for request in asked} == expected


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_a_cancel_frees_the_blocks_at_once_and_leaves_the_others(desk: Open, steps: int) -> None:
    stays = ask("stays", "rome", max_new_tokens=30)
    expected = alone(desk, [stays])["stays"]
    flown = desk()
    flown.scheduler.add(ask("gone", LONG, **ENDLESS))
    flown.scheduler.add(stays)
    flown.step(steps)
    flown.scheduler.cancel("gone")
    assert flown.spy.held() <= {"stays"}
    flown.finish()
    assert flown.said("gone")[2] == "cancelled"
    assert flown.said("stays") == expected


@pytest.mark.parametrize("where", ["decode", "all"])
def test_numbers_that_are_none_end_that_request_alone(desk: Open, where: str) -> None:
    others = [ask("b", "rome", max_new_tokens=20), ask("c", LONG, **LOOSE, seed=1)]
    expected = alone(desk, others, flying=True)
    flown = desk()
    if where == "all":
        flown.spy.poisoned.add("a")
    else:
        flown.spy.poison["a"] = torch.nan
    flown.run(ask("a", LONG, **ENDLESS), *others)
    assert "not finite" in flown.replies["a"].failed.message
    assert {request.id: flown.said(request.id) for request in others} == expected


def test_a_step_that_fails_ends_all_that_were_in_it_and_serves_the_next(
    desk: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    flown = desk()
    for name in ("a", "b"):
        flown.scheduler.add(ask(name, **ENDLESS))
    flown.step(5)

    def broken(*_: object) -> None:
        raise RuntimeError("kernel launch failed")

    with monkeypatch.context() as patch:
        patch.setattr(flown.spy.inner, "decode", broken)
        flown.finish()
    assert "kernel launch failed" in flown.replies["a"].failed.message
    assert "kernel launch failed" in flown.replies["b"].failed.message
    asked = ask("next", max_new_tokens=20)
    flown.run(asked)
    assert flown.said("next") == alone(desk, [asked])["next"]


# -- beside others ------------------------------------------------------------------------


def test_what_does_not_fly_is_served_beside_what_does(desk: Open) -> None:
    asked = [
        ask("flies", max_new_tokens=30),
        ask("told", "rome", logprobs=2, max_new_tokens=30),
        ask("formed", "rome", structure="regex", structure_text="a[b-d ]{9,}", max_new_tokens=30),
        *(ask(name, LONG, max_new_tokens=25, **options) for name, options in METHODS.items()),
        ask("flies too", LONG, max_new_tokens=30),
    ]
    expected = alone(desk, asked)
    mixed = desk(8 * CONTEXT)
    mixed.run(*asked)
    assert {request.id: mixed.said(request.id) for request in asked} == expected
    assert all(chunk.logprobs for chunk in mixed.replies["told"].chunks if chunk.tokens)


def test_loras_fly_with_their_own_replies(desk: Open, checkpoint: Path, tmp_path: Path) -> None:
    folders = {name: make_adapter(checkpoint, tmp_path / name, seed=ord(name)) for name in "xy"}
    mixes = {"base": (), "x": (("x", 1.0),), "both": (("x", 0.5), ("y", -1.0))}
    asked = [ask(name, adapters=mix, max_new_tokens=20) for name, mix in mixes.items()]

    def served(flying: bool, *together: GenerateRequest) -> dict[str, Any]:
        one = desk(flying=flying)
        for name, folder in folders.items():
            one.scheduler.load_adapter(LoadAdapter(f"load {name}", name, str(folder)))
        one.run(*together)
        for name in folders:
            one.scheduler.unload_adapter(UnloadAdapter(f"unload {name}", name))
        one.finish()
        return {request.id: one.said(request.id) for request in together}

    expected = {name: said for each in asked for name, said in served(False, each).items()}
    assert len({tuple(tokens) for tokens, *_ in expected.values()}) == 3
    assert served(True, *asked) == expected


# -- what was computed once too often -----------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_replies_that_share_prompts_in_a_small_cache_are_each_what_they_are_alone(
    desk: Open, seed: int
) -> None:
    chance = random.Random(seed)
    asked = [random_request(f"{i}", chance) for i in range(25)]
    expected = alone(desk, asked, flying=True)
    small = desk((9 + seed % 3) * BLOCK, max_running=8, prefill_chunk=50)
    cancelled = set()
    for request in asked:
        small.scheduler.add(request)
        small.step(chance.randint(0, 2))
        if chance.random() < 0.1:
            small.scheduler.cancel(request.id)
            cancelled.add(request.id)
    small.finish()
    assert len(small.spy.started) > len(set(small.spy.started)), "some were sent back"
    for request in asked:
        if request.id not in cancelled:
            assert small.said(request.id) == expected[request.id]


def random_request(name: str, chance: random.Random) -> GenerateRequest:
    """Of a few prompts, with any way to end, and sometimes one that does not fly."""
    prompt = " ".join([chance.choice(PROMPTS)] * chance.randint(1, 3))[:250]
    options: dict[str, Any] = {"max_new_tokens": chance.randint(1, 60)}
    if chance.random() < 0.3:
        options |= {"stop": (chance.choice("abcdeo st"),)}
    if chance.random() < 0.3:
        options |= {"logit_bias": ("2:8",)}
    if chance.random() < 0.3:
        options |= {"do_sample": True, "temperature": 1.5, "seed": chance.randrange(100)}
    if chance.random() < 0.3:
        options |= {"logprobs": 1}
    return ask(name, prompt, **options)


def test_a_next_turn_shares_the_reply_and_not_what_came_after_it(desk: Open) -> None:
    flown = desk()
    text = LONG
    for turn in range(6):
        stop = {"stop": ("e",)} if turn % 2 else {}
        asked = ask(f"{turn}", text, max_new_tokens=9, ban_eos_token=True, **stop)
        flown.run(asked)
        assert flown.said(asked.id) == alone(desk, [asked])[asked.id]
        text = (text + flown.replies[asked.id].text + " and the")[:600]


# -- memory -------------------------------------------------------------------------------


@pytest.mark.parametrize("flying", [False, True])
@pytest.mark.parametrize("options", [{}, {"do_sample": True, "temperature": 1.5, "seed": 3}])
def test_the_youngest_waits_where_there_is_no_room_and_says_the_same_later(
    desk: Open, flying: bool, options: dict[str, Any]
) -> None:
    asked = [
        ask(f"{i}", "rome " * i, ban_eos_token=True, max_new_tokens=90, **options) for i in range(4)
    ]
    expected = alone(desk, asked, flying)
    small = desk(12 * BLOCK, flying)
    ended: list[str] = []
    for request in asked:
        small.scheduler.add(request)
    while small.scheduler.has_work:
        small.step()
        ended += [name for name, r in small.replies.items() if r.end and name not in ended]
    assert {request.id: small.said(request.id) for request in asked} == expected
    assert ended == ["0", "1", "2", "3"]
    assert small.pool.used == 0


@pytest.mark.parametrize("flying", [False, True])
def test_what_is_too_long_for_the_memory_fails_with_a_sentence(desk: Open, flying: bool) -> None:
    small = desk(3 * BLOCK, flying)
    replies = small.run(ask("long", LONG, max_new_tokens=5), ask("grows", **ENDLESS), ask("fits"))
    assert "longer than the memory" in replies["long"].failed.message
    assert "smaller context" in replies["long"].failed.remedy
    assert "longer than the memory" in replies["grows"].failed.message
    assert 20 < replies["grows"].tokens <= 3 * BLOCK
    assert replies["fits"].tokens == 12


@pytest.mark.parametrize("flying", [False, True])
def test_nobody_overtakes_who_waits_for_memory(desk: Open, flying: bool) -> None:
    small = desk(10 * BLOCK, flying)
    small.scheduler.add(ask("first", **ENDLESS | {"max_new_tokens": 60}))
    small.step(3)
    small.scheduler.add(ask("large", LONG * 2, max_new_tokens=60))
    small.scheduler.add(ask("small", "rome", max_new_tokens=3))
    small.step(10)
    assert set(small.replies) == {"first"}
    small.finish()
    assert all(reply.finished for reply in small.replies.values())


@pytest.mark.parametrize("tokens", range(9, 14))
def test_a_reply_may_end_with_the_token_after_which_there_is_no_room(
    desk: Open, tokens: int
) -> None:
    # In one block the prompt of 5 leaves room for 11, and the end may come after them.
    asked = ask(min_length=tokens, logit_bias=("2:100",), max_new_tokens=200)
    reply = desk(BLOCK).run(asked)["a"]
    if tokens <= 11:
        assert (reply.tokens, reply.finished.reason) == (tokens, "stop")
    else:
        assert "longer than the memory" in reply.failed.message


def test_a_reply_that_waits_ends_when_its_lora_leaves(
    desk: Open, checkpoint: Path, tmp_path: Path
) -> None:
    folder = make_adapter(checkpoint, tmp_path / "x")
    small = desk(10 * BLOCK)
    small.scheduler.load_adapter(LoadAdapter("load", "x", str(folder)))
    for name in ("stays", "waits"):
        mix = (("x", 1.0),) if name == "waits" else ()
        small.scheduler.add(ask(name, adapters=mix, ban_eos_token=True, max_new_tokens=120))
    while "waits" in small.spy.held() or "waits" not in small.replies:
        small.step()
    assert small.replies["waits"].end is None
    small.scheduler.unload_adapter(UnloadAdapter("unload", "x"))
    small.finish()
    assert "LoRA x was removed" in small.replies["waits"].failed.message
    assert small.replies["stays"].tokens == 120


@pytest.mark.parametrize("flying", [False, True])
@pytest.mark.parametrize("blocks", range(8, 20))
def test_all_kinds_of_requests_come_to_an_end_in_little_memory(
    desk: Open, flying: bool, blocks: int
) -> None:
    options: dict[str, Any] = {"max_new_tokens": 40, "ban_eos_token": True}
    asked = [
        ask("flies", **options),
        ask("told", "rome", logprobs=1, **options),
        *(ask(name, "paris", **options, **method) for name, method in METHODS.items()),
        ask("told too", "italy", logprobs=1, **options),
        ask("flies too", "rome is", **options),
    ]
    expected = alone(desk, asked)
    small = desk(blocks * BLOCK, flying)
    for request in asked:
        small.scheduler.add(request)
        small.step()
    small.finish()
    for request in asked:
        end = small.replies[request.id].end
        if request.id in METHODS and isinstance(end, Failed):
            assert "emory" in end.message
        else:
            assert small.said(request.id) == expected[request.id]
