"""A runner whose cache is in 8 bits computes the same whichever way it comes to a token."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from modules.engine.worker.llama.runner import LlamaRunner
from tests.engine.llama.tracks import beginning, computed, ids_of, model_logits, track
from tests.engine.runners import llama_runner

CONTEXT = 256


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
        initializer_range=0.1,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def runner(model: LlamaForCausalLM) -> LlamaRunner:
    return llama_runner(model, CONTEXT, 16 * CONTEXT, int8=True)


def test_it_computes_nearly_what_the_model_does(
    runner: LlamaRunner, model: LlamaForCausalLM
) -> None:
    ids = ids_of(90)
    one = track(ids[:40])
    found = torch.cat((beginning(runner, one)[None], computed(runner, one, ids[40:])))
    meant = model_logits(model, ids)[39:]
    off = (found - meant).norm(dim=-1) / meant.norm(dim=-1)
    assert 0 < off.median() < off.max() < 0.05


@pytest.mark.parametrize("chunk", [1, 5, 16])
def test_a_prompt_in_chunks_is_the_prompt_at_once(runner: LlamaRunner, chunk: int) -> None:
    ids = ids_of(70)
    at_once = beginning(runner, track(ids))
    runner._pool.clear()
    torch.testing.assert_close(beginning(runner, track(ids), chunk), at_once, atol=1e-4, rtol=1e-4)


def test_a_shared_beginning_is_as_good_as_an_own_one(runner: LlamaRunner) -> None:
    ids = ids_of(100)
    first, second = track(ids), track(ids[:80] + ids_of(10, seed=1))
    beginning(runner, first)
    shared = beginning(runner, second)
    assert runner._tables[second.id].blocks[:5] == runner._tables[first.id].blocks[:5]
    runner.release(first, keep=False)
    runner.release(second, keep=False)
    runner._pool.clear()
    own = beginning(runner, track(second.token_ids))
    torch.testing.assert_close(shared, own, atol=1e-4, rtol=1e-4)


def test_a_fork_takes_the_scales_of_its_last_block_along(runner: LlamaRunner) -> None:
    one, ids = track(ids_of(37)), ids_of(6, seed=1)
    beginning(runner, one)
    fork = track(one.token_ids)
    runner.fork(one, fork)
    alike = computed(runner, one, ids)
    torch.testing.assert_close(computed(runner, fork, ids), alike, atol=1e-4, rtol=1e-4)


def test_a_draft_that_is_taken_back_leaves_nothing_behind(runner: LlamaRunner) -> None:
    one, ids = track(ids_of(37)), ids_of(6, seed=1)
    beginning(runner, one)
    runner.extend(one, ids_of(9, seed=2))
    runner.rewind(one, 37)
    found = computed(runner, one, ids)
    runner.release(one, keep=False)
    runner._pool.clear()
    other = track(ids_of(37))
    beginning(runner, other)
    torch.testing.assert_close(found, computed(runner, other, ids), atol=1e-4, rtol=1e-4)
