"""The runner that the worker makes for a model: its kind, and room for what was planned."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from modules.engine.worker.llama.blocks import BLOCK
from modules.engine.worker.llama.runner import LlamaRunner
from modules.engine.worker.llama.shape import unfit
from modules.engine.worker.runner import TransformersRunner
from modules.engine.worker.runners import ReadyRunner, make_runner
from modules.engine.worker.sequence import Track
from modules.errors import LoadFailedError
from modules.loader import fast_runner
from modules.loader.options import LoadOptions
from modules.loader.transformers_loader import LoadedModel, load

CONTEXT = 64


@pytest.fixture
def fresh(checkpoint: Path) -> LoadedModel:
    """A model of its own, whose weights the runner may take over."""
    return load(checkpoint, lambda stage, fraction: None, LoadOptions(device="cpu"))


def made(loaded: LoadedModel, cache_tokens: int, *, int8: bool = False) -> ReadyRunner:
    return make_runner(loaded, CONTEXT, cache_tokens, lambda stage, fraction: None, int8=int8)


def room(ready: ReadyRunner) -> int:
    """Tokens that fit into the cache, found by asking for one block more each time."""
    asking = Track(id="asks", token_ids=[], max_tokens=0, mix=())
    while ready.runner.has_room(asking):
        asking.token_ids += [5] * BLOCK
        asking.max_tokens = len(asking.token_ids)
    return len(asking.token_ids) - BLOCK


@pytest.mark.parametrize(("planned", "tokens"), [(80, 80), (250, 256), (5 * CONTEXT, 320)])
def test_the_cache_has_room_for_what_was_planned(
    planned: int, tokens: int, fresh: LoadedModel
) -> None:
    assert room(made(fresh, planned)) == tokens


def test_it_has_room_for_one_context_at_least(fresh: LoadedModel) -> None:
    assert room(made(fresh, 1)) == CONTEXT


def test_without_a_plan_the_processor_has_room_for_three_contexts(fresh: LoadedModel) -> None:
    assert room(made(fresh, 0)) == 3 * CONTEXT


def test_a_cache_that_the_memory_is_not_enough_for_is_refused_with_a_remedy(
    fresh: LoadedModel,
) -> None:
    with pytest.raises(LoadFailedError, match=r"KV cache for 1,099,511,627,776 tokens") as caught:
        made(fresh, 2**40)
    assert caught.value.remedy.startswith("Choose a smaller context")


def test_the_cache_is_in_8_bits_where_that_was_chosen(fresh: LoadedModel) -> None:
    ready = made(fresh, 128, int8=True)
    assert isinstance(ready.runner, LlamaRunner)
    cache = ready.runner._model.cache
    assert (cache.numbers.dtype, cache.blocks) == (torch.int8, 8)
    assert cache.scales is not None
    assert cache.scales.shape == cache.numbers.shape[:-1]


def test_what_is_no_llama_is_left_to_transformers(fresh: LoadedModel) -> None:
    other = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=64))
    for int8 in (False, True):
        ready = made(LoadedModel(other, fresh.tokenizer, fresh.inspection), 128, int8=int8)
        assert isinstance(ready.runner, TransformersRunner)
    assert isinstance(made(fresh, 128).runner, LlamaRunner)


# -- what the plan knows of the worker --------------------------------------------------


def test_the_plan_and_the_worker_agree_on_whom_the_fast_runner_serves(fresh: LoadedModel) -> None:
    for context in (CONTEXT, 10 * CONTEXT):
        assert fast_runner.serves(fresh.inspection, context) == (not unfit(fresh.model, context))


# -- on a card --------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA card")
def test_a_card_gets_what_was_planned_whatever_is_free(checkpoint: Path) -> None:
    loaded = load(checkpoint, lambda stage, fraction: None, LoadOptions())
    ready = made(loaded, 5 * CONTEXT)
    assert (room(ready), ready.chunk) == (5 * CONTEXT, fast_runner.CHUNK)
