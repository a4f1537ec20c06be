"""Steps that are launched ahead on a card draw what steps one after the other draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from modules.engine.params import SamplingParams
from modules.engine.protocol import GenerateRequest
from modules.engine.worker.decoding.method import Method
from modules.engine.worker.flights import Flight
from modules.engine.worker.sampler import Sampler
from modules.engine.worker.sequence import Sequence
from tests.engine.llama.cards import CONTEXT, Twin, clear_rows, text, twin_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA card"),
]


@dataclass(frozen=True)
class Trip:
    """When a reply begins, and how many tokens it has."""

    begins: int
    tokens: int
    prompt: int
    params: dict[str, Any]


GREEDY: dict[str, Any] = {"do_sample": False}
TRIPS = [
    Trip(0, 14, 40, GREEDY),
    Trip(0, 4, 17, {"seed": 3}),
    Trip(2, 9, 64, GREEDY),
    Trip(3, 7, 150, {"seed": 11, "temperature": 0.7, "top_k": 40, "top_p": 0.9}),
    Trip(5, 12, 1, {"seed": 3, "repetition_penalty": 1.3}),
]


@pytest.fixture(scope="module", params=["llama, 4 bits", "qwen 3, 16 bits"])
def twin(request: pytest.FixtureRequest) -> Twin:
    return twin_of(request.param)


def boarded(twin: Twin) -> list[Sequence]:
    """The sequences of all trips, none of them begun, and nothing known."""
    twin.fresh([])
    nobody: Any = None
    seqs = []
    for number, trip in enumerate(TRIPS):
        params = SamplingParams.neutral(**trip.params)
        seq = Sequence(
            request=GenerateRequest(f"trip {number}", "", params),
            token_ids=text(trip.prompt, seed=number),
            max_tokens=CONTEXT,
            end_ids=frozenset(),
            sampler=Sampler(params, frozenset()),
            detokenizer=nobody,
            tokenizer=nobody,
        )
        seq.method = Method(seq, twin.runner)
        twin.flights.board(seq)
        assert seq.row is not None
        seqs.append(seq)
    return seqs


def begin(twin: Twin, seqs: list[Sequence], step: int) -> list[Sequence]:
    """Compute the prompts, and draw the first tokens, of those that begin now."""
    begun = [seq for seq, trip in zip(seqs, TRIPS, strict=True) if trip.begins == step]
    for seq in begun:
        twin.runner.start(seq)
        logits = twin.runner.prefill(seq, 2048)
        assert logits is not None
        token_id, numbers = twin.flights.first(seq, logits)
        assert numbers
        seq.token_ids.append(token_id)
    return begun


def reply(seq: Sequence, trip: Trip) -> list[int]:
    return seq.token_ids[trip.prompt :][: trip.tokens]


def fly(twin: Twin, seqs: list[Sequence]) -> list[list[Sequence]]:
    """Ahead of what is seen; who has ended is computed once more. Returns who was in each step."""
    wanted = {seq: trip.prompt + trip.tokens for seq, trip in zip(seqs, TRIPS, strict=True)}
    going: list[Sequence] = []
    launched: list[list[Sequence]] = []
    before: Flight | None = None
    while going or len(launched) <= max(trip.begins for trip in TRIPS):
        going += begin(twin, seqs, len(launched))
        flight = twin.flights.launch(list(going), before)
        launched.append(list(going))
        for seq, token_id, numbers in () if before is None else before.land():
            assert numbers
            if len(seq.token_ids) < wanted[seq]:
                seq.token_ids.append(token_id)
            if len(seq.token_ids) == wanted[seq] and seq in going:
                going.remove(seq)
                twin.runner.release(seq, keep=False)
        before = flight
    return launched


def walk(twin: Twin, seqs: list[Sequence], steps: list[list[int]]) -> None:
    """One step after the other, each token seen before the next is computed."""
    sampler = twin.flights._sampler
    for number, places in enumerate(steps):
        begin(twin, seqs, number)
        going = [seqs[place] for place in places]
        logits = twin.runner.decode(list(going))
        tokens, _ = sampler.sample(logits, [seq.row for seq in going if seq.row is not None])
        for seq, token_id in zip(going, tokens.tolist(), strict=True):
            seq.token_ids.append(token_id)
    for seq in seqs:
        twin.runner.release(seq, keep=False)


def test_flown_tokens_are_those_of_steps_one_after_the_other(twin: Twin) -> None:
    flown = boarded(twin)
    launched = fly(twin, flown)
    assert {len(seqs) for seqs in launched} >= {1, 2, 3, 4}
    walked = boarded(twin)
    walk(twin, walked, [[flown.index(seq) for seq in seqs] for seqs in launched])
    for one, other, trip in zip(flown, walked, TRIPS, strict=True):
        assert len(reply(one, trip)) == trip.tokens
        assert reply(one, trip) == reply(other, trip)


def test_flown_greedy_replies_are_the_likeliest_tokens(twin: Twin) -> None:
    seqs = boarded(twin)
    fly(twin, seqs)
    for seq, trip in zip(seqs, TRIPS, strict=True):
        if trip.params == GREEDY:
            meant = twin.logits(seq.token_ids)[trip.prompt - 1 : -1]
            clear = clear_rows(meant, twin.dtype)
            assert clear.sum() > trip.tokens / 3
            said = torch.tensor(reply(seq, trip))
            assert torch.equal(said[clear], meant.argmax(-1)[clear])
