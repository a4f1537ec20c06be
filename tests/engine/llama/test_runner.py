"""What a step computes does not depend on who else is in it, or on whose blocks it shares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from modules.engine.mix import Mix
from modules.engine.worker.llama.blocks import BLOCK, CacheFullError
from modules.engine.worker.llama.runner import LlamaRunner
from modules.engine.worker.runner import TransformersRunner
from modules.engine.worker.sequence import Track
from modules.errors import AdapterError, EngineError
from tests.engine.llama.tracks import beginning, computed, ids_of, model_logits, track
from tests.engine.lora import IDS, LINEAR, base_model, make_adapter
from tests.engine.runners import llama_runner

CONTEXT = 256
AROUND = [1, 15, 16, 17, 31, 32, 33, 70]
"""Lengths at the edges of blocks, and between."""


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(11)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def runner(model: LlamaForCausalLM) -> LlamaRunner:
    return llama_runner(model, CONTEXT, 16 * CONTEXT)


@pytest.fixture
def check(model: LlamaForCausalLM) -> Callable[[Tensor, list[int]], None]:
    """That logits [n, vocab] are those after the last n tokens of a text."""

    def check(found: Tensor, ids: list[int]) -> None:
        expected = model_logits(model, ids)[-len(found) :]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)

    return check


Check = Callable[[Tensor, list[int]], None]


def used(runner: LlamaRunner) -> int:
    return runner._pool.used


# -- steps --------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 5, 16, 1000])
@pytest.mark.parametrize("length", AROUND)
def test_a_prompt_in_chunks_is_the_prompt_at_once(
    runner: LlamaRunner, check: Check, length: int, chunk: int
) -> None:
    ids = ids_of(length)
    check(beginning(runner, track(ids), chunk)[None], ids)


@pytest.mark.parametrize("count", [2, 8, 33, 70])
def test_rows_of_many_sequences_are_each_what_they_are_alone(
    runner: LlamaRunner, check: Check, count: int
) -> None:
    tracks = [track(ids_of(AROUND[i % len(AROUND)], seed=i)) for i in range(count)]
    for one in tracks:
        beginning(runner, one)
    for step in range(3):
        for i, one in enumerate(tracks):
            one.token_ids.append(ids_of(1, seed=100 * step + i)[0])
        for one, row in zip(tracks, runner.decode(tracks), strict=True):
            check(row[None], one.token_ids)


def test_tokens_that_only_the_device_knows_are_computed_in_the_place_of_their_own(
    runner: LlamaRunner, check: Check
) -> None:
    tracks = [track(ids_of(AROUND[i % len(AROUND)], seed=i)) for i in range(40)]
    for one in tracks:
        beginning(runner, one)
    drawn = ids_of(len(tracks), seed=3)
    rows = runner.decode(tracks, torch.tensor(drawn)).clone()
    for one, token_id, row in zip(tracks, drawn, rows, strict=True):
        check(row[None], [*one.token_ids, token_id])


@pytest.mark.parametrize("count", [1, 2, 16, 32, 33, 50])
@pytest.mark.parametrize("length", [1, 15, 16, 40])
def test_a_draft_is_what_its_tokens_are_one_after_the_other(
    runner: LlamaRunner, check: Check, length: int, count: int
) -> None:
    one, draft = track(ids_of(length)), ids_of(count, seed=1)
    beginning(runner, one)
    rows = runner.extend(one, draft).clone()
    check(rows, one.token_ids + draft)
    assert one.computed == length + count
    one.token_ids += draft
    check(computed(runner, one, ids_of(2, seed=2)), one.token_ids)


@pytest.mark.parametrize("length", AROUND)
@pytest.mark.parametrize("wrong", [1, 15, 16, 20])
def test_what_was_rewound_leaves_no_trace(
    runner: LlamaRunner, check: Check, length: int, wrong: int
) -> None:
    one = track(ids_of(length))
    beginning(runner, one)
    runner.extend(one, ids_of(wrong, seed=1))
    held = used(runner)
    runner.rewind(one, length)
    assert used(runner) <= held
    check(computed(runner, one, ids_of(20, seed=2)), one.token_ids)


def test_a_rewound_prompt_may_go_on_otherwise(runner: LlamaRunner, check: Check) -> None:
    one = track(ids_of(70))
    beginning(runner, one)
    runner.rewind(one, 21)
    del one.token_ids[21:]
    check(computed(runner, one, ids_of(30, seed=5)), one.token_ids)
    first = track(ids_of(70))
    check(beginning(runner, first)[None], first.token_ids)


@pytest.mark.parametrize("length", AROUND)
def test_what_is_written_after_a_fork_does_not_reach_the_other(
    runner: LlamaRunner, check: Check, length: int
) -> None:
    one = track(ids_of(length))
    beginning(runner, one)
    forks = [track(one.token_ids) for _ in range(3)]
    for fork in forks:
        runner.fork(one, fork)
    for step in range(20):
        for i, each in enumerate([one, *forks]):
            found = computed(runner, each, ids_of(1, seed=50 * i + step))
            check(found, each.token_ids)
    runner.release(one)
    check(computed(runner, forks[1], ids_of(3, seed=9)), forks[1].token_ids)
    for fork in forks:
        runner.release(fork, keep=False)
    assert used(runner) == 0


def test_hidden_states_are_those_after_the_last_norm(
    runner: LlamaRunner, model: LlamaForCausalLM
) -> None:
    ids, rest = ids_of(40), ids_of(3, seed=1)
    beginning(runner, track(ids))  # known by now; the states are wanted all the same
    states: list[Tensor] = []
    one, other = track(ids, hidden=states), track(ids_of(5))
    beginning(runner, other)
    assert runner.start(one) == 0
    while runner.prefill(one, 9) is None:
        pass
    for each in (one, other):
        each.token_ids.append(rest[0])
    runner.decode([other, one])
    runner.extend(one, rest[1:])
    with torch.inference_mode():
        whole = model(torch.tensor([ids + rest]), output_hidden_states=True)
    found = torch.cat(states)
    torch.testing.assert_close(found, whole.hidden_states[-1][0], atol=1e-4, rtol=1e-4)


# -- what is shared -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "shared"), [(15, 0), (16, 0), (17, 16), (32, 16), (33, 32), (40, 32)]
)
@pytest.mark.parametrize("ended", [False, True])
def test_whole_blocks_of_a_known_prompt_are_shared(
    runner: LlamaRunner, check: Check, length: int, shared: int, ended: bool
) -> None:
    ids = ids_of(length)
    first = track(ids)
    beginning(runner, first)
    if ended:
        runner.release(first)
    again = track(ids)
    assert runner.start(again) == shared
    logits = runner.prefill(again, 1000)
    assert logits is not None
    check(logits[None], ids)
    check(computed(runner, again, ids_of(20, seed=1)), again.token_ids)
    if not ended:
        check(computed(runner, first, ids_of(20, seed=2)), first.token_ids)


def test_a_reply_is_shared_with_the_next_turn_as_far_as_it_is_certain(
    runner: LlamaRunner, check: Check
) -> None:
    one = track(ids_of(20))
    beginning(runner, one)
    said, draft = ids_of(20, seed=1), ids_of(30, seed=2)
    computed(runner, one, said)
    runner.extend(one, draft)  # a guess, of which nothing was said
    turn = track(one.token_ids + draft + [5])
    assert runner.start(turn) == 32
    runner.release(one)
    later = track(one.token_ids + draft + [5])
    assert runner.start(later) == 32
    logits = runner.prefill(later, 1000)
    assert logits is not None
    check(logits[None], later.token_ids)


def test_two_that_compute_the_same_at_once_are_both_right(
    runner: LlamaRunner, check: Check
) -> None:
    ids = ids_of(50)
    pair = [track(ids), track(ids)]
    for one in pair:
        assert runner.start(one) == 0
    for count in (20, 30):
        logits = [runner.prefill(one, count) for one in pair]
    for row in logits:
        assert row is not None
        check(row[None], ids)
    runner.release(pair[0])
    check(computed(runner, pair[1], ids_of(20, seed=1)), pair[1].token_ids)
    third = track(ids)
    check(beginning(runner, third)[None], ids)


def test_a_rewind_into_what_others_share_leaves_theirs(runner: LlamaRunner, check: Check) -> None:
    ids = ids_of(50)
    one, other = track(ids), track(ids)
    beginning(runner, one)
    beginning(runner, other)
    runner.rewind(one, 20)
    del one.token_ids[20:]
    check(computed(runner, one, ids_of(30, seed=1)), one.token_ids)
    check(computed(runner, other, ids_of(5, seed=2)), other.token_ids)


def test_many_short_texts_in_a_small_cache_never_get_anothers_blocks(
    model: LlamaForCausalLM, check: Check
) -> None:
    runner = llama_runner(model, CONTEXT, 8 * BLOCK)
    made = torch.Generator().manual_seed(4)
    running: list[Track] = []
    for number in range(60):
        if len(running) == 2:
            runner.release(running.pop(int(torch.randint(2, (1,), generator=made))))
        length = int(torch.randint(1, 45, (1,), generator=made))
        one = track(ids_of(30, seed=number % 3)[:length] + ids_of(3, seed=number))
        check(beginning(runner, one, chunk=10)[None], one.token_ids)
        running.append(one)
        for each in running:
            check(computed(runner, each, ids_of(1, seed=number)), each.token_ids)
    for one in running:
        runner.release(one)
    assert used(runner) == 0


# -- room ---------------------------------------------------------------------------------


def test_who_finds_no_room_goes_on_when_there_is(model: LlamaForCausalLM, check: Check) -> None:
    runner = llama_runner(model, CONTEXT, 4 * BLOCK)
    large, small = track(ids_of(40)), track(ids_of(16, seed=1))
    beginning(runner, large)
    beginning(runner, small)
    for one in (large, small):
        one.token_ids.append(7)
    with pytest.raises(CacheFullError):
        runner.decode([large, small])
    assert (large.computed, small.computed) == (40, 16)
    waiting = track(ids_of(20, seed=2))
    assert not runner.has_room(waiting)
    runner.start(waiting)
    with pytest.raises(CacheFullError):
        runner.prefill(waiting, 20)
    runner.release(large)
    check(runner.decode([small]), small.token_ids)
    logits = runner.prefill(waiting, 20)
    assert logits is not None
    check(logits[None], waiting.token_ids)


def test_room_is_wanted_for_some_of_the_reply(model: LlamaForCausalLM) -> None:
    runner = llama_runner(model, CONTEXT, 8 * BLOCK)
    assert runner.has_room(track(ids_of(64)))
    assert not runner.has_room(track(ids_of(65)))
    short = track(ids_of(65))
    short.max_tokens = 70
    assert runner.has_room(short)


def test_what_no_embedding_is_there_for_is_refused(runner: LlamaRunner) -> None:
    with pytest.raises(EngineError, match="no embedding"):
        runner.start(track([3, 128]))
    with pytest.raises(AdapterError, match="nobody"):
        runner.start(track([3], mix=(("nobody", 1.0),)))
    assert used(runner) == 0


def test_a_release_of_what_was_never_started_is_harmless(runner: LlamaRunner) -> None:
    one = track(ids_of(20))
    runner.release(one)
    beginning(runner, one)
    runner.release(one)
    runner.release(one)
    assert used(runner) == 0


# -- LoRAs --------------------------------------------------------------------------------

KINDS: dict[str, dict[str, object]] = {
    "plain": {},
    "another": {"r": 8, "target_modules": LINEAR},
    "dora": {"use_dora": True},
    "some": {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1]},
    "embeds": {"target_modules": ["k_proj", "embed_tokens"]},
    "heads": {"target_modules": ["lm_head", "v_proj"]},
    "saved": {"modules_to_save": ["embed_tokens", "lm_head"]},
}
MIXES: list[Mix] = [
    (),
    *(((name, 1.0),) for name in KINDS),
    (("plain", 0.5), ("another", -1.0)),
    (("dora", 0.7), ("embeds", 0.5), ("heads", 0.3)),
    (("saved", 0.4), ("some", 2.0)),
]


@pytest.fixture(scope="module")
def folders(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("loras")
    return {
        name: make_adapter(checkpoint, place / name, seed=seed, **options)
        for seed, (name, options) in enumerate(KINDS.items())
    }


@pytest.fixture(scope="module")
def adapted(checkpoint: Path, folders: dict[str, Path]) -> LlamaRunner:
    runner = llama_runner(base_model(checkpoint), CONTEXT, 16 * CONTEXT)
    for name, folder in folders.items():
        runner.load_adapter(name, folder, IDS)
    return runner


@pytest.fixture(scope="module")
def expected(checkpoint: Path, folders: dict[str, Path]) -> Callable[..., Tensor]:
    """Logits [1 + rest, vocab] after a prompt and each token of the rest, by transformers."""
    runner = TransformersRunner(base_model(checkpoint), CONTEXT)
    for name, folder in folders.items():
        runner.load_adapter(name, folder, IDS)

    def expected(ids: list[int], rest: list[int], mix: Mix) -> Tensor:
        one = track(ids, mix)
        first = beginning(runner, one)[None]
        return torch.cat([first, computed(runner, one, rest)]) if rest else first

    return expected


def close(found: Tensor, meant: Tensor) -> bool:
    return float((found - meant).norm() / meant.norm()) < 1e-5


def test_rows_with_different_mixes_are_each_what_transformers_computes(
    adapted: LlamaRunner, expected: Callable[..., Tensor]
) -> None:
    ids, rest = ids_of(37), ids_of(4, seed=1)
    tracks = [track(ids, mix) for mix in MIXES]
    rows = [[beginning(adapted, one, chunk=15)] for one in tracks]
    for token_id in rest:
        for one in tracks:
            one.token_ids.append(token_id)
        for found, row in zip(rows, adapted.decode(tracks).clone(), strict=True):
            found.append(row)
    meant = [expected(ids, rest, mix) for mix in MIXES]
    for one, found, logits in zip(tracks, rows, meant, strict=True):
        assert close(torch.stack(found), logits), one.mix
        adapted.release(one)
    for number, logits in enumerate(meant):
        assert not any(close(other, logits) for other in meant[:number]), "mixes differ"


@pytest.mark.parametrize("mix", MIXES[1:], ids=lambda mix: "+".join(name for name, _ in mix))
def test_a_mix_alone_is_what_transformers_computes(
    adapted: LlamaRunner, expected: Callable[..., Tensor], mix: Mix
) -> None:
    ids, rest = ids_of(20), ids_of(3, seed=1)
    one = track(ids, mix)
    found = [beginning(adapted, one)]
    one.token_ids.append(rest[0])
    found += adapted.decode([one]).clone()
    found += adapted.extend(one, rest[1:]).clone()
    assert close(torch.stack(found), expected(ids, rest, mix))
    adapted.release(one)


def test_what_is_known_serves_the_same_mix_alone(adapted: LlamaRunner) -> None:
    ids, plain = ids_of(40, seed=8), (("plain", 1.0),)
    one = track(ids, plain)
    beginning(adapted, one)
    adapted.release(one)
    for mix in ((), (("plain", 0.5),), (("dora", 1.0),)):
        assert adapted.start(track(ids, mix)) == 0
    assert adapted.start(track(ids, plain)) == 32


def test_a_removed_adapter_takes_along_what_was_computed_with_it(
    checkpoint: Path, folders: dict[str, Path], expected: Callable[..., Tensor]
) -> None:
    runner, ids = llama_runner(base_model(checkpoint), CONTEXT, CONTEXT), ids_of(40)
    runner.load_adapter("a", folders["plain"], IDS)
    for mix in ((("a", 1.0),), ()):
        one = track(ids, mix)
        beginning(runner, one)
        runner.release(one)
    runner.unload_adapter("a")
    with pytest.raises(AdapterError):
        runner.start(track(ids, (("a", 1.0),)))
    runner.load_adapter("a", folders["dora"], IDS)
    anew = track(ids, (("a", 1.0),))
    assert runner.start(anew) == 0
    logits = runner.prefill(anew, 1000)
    assert logits is not None
    assert close(logits[None], expected(ids, [], (("dora", 1.0),)))
    base = track(ids)
    assert runner.start(base) == 32
    logits = runner.prefill(base, 1000)
    assert logits is not None
    assert close(logits[None], expected(ids, [], ()))


def test_a_lora_is_applied_where_memory_is_too_short_to_stack_it(
    checkpoint: Path,
    folders: dict[str, Path],
    expected: Callable[..., Tensor],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def short(*_: Any) -> None:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr("modules.engine.worker.llama.runner.LoraStack.__init__", short)
    runner = llama_runner(base_model(checkpoint), CONTEXT, CONTEXT)
    runner.load_adapter("plain", folders["plain"], IDS)
    assert "Memory is short" in caplog.text
    ids, rest, mix = ids_of(20), ids_of(2, seed=1), (("plain", 1.0),)
    one = track(ids, mix)
    found = torch.cat([beginning(runner, one)[None], computed(runner, one, rest)])
    assert close(found, expected(ids, rest, mix))
