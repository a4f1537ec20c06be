"""Packed rows are learnt exactly as if each stood alone."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from modules.training.masking import Masked
from modules.training.packing import IGNORED, Pack, cut, flatten, pack, waste

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "mistral with a window": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=4)),
}


def some_rows(seed: int) -> list[Masked]:
    chance = random.Random(seed)
    lengths = [chance.randint(2, 12) for _ in range(5)]
    return [
        Masked(
            tuple(chance.randrange(64) for _ in range(n)),
            tuple(chance.random() < 0.6 for _ in range(n)),
        )
        for n in lengths
    ]


def summed_loss(model: torch.nn.Module, packed: Pack) -> torch.Tensor:
    ids, positions = torch.tensor([packed.ids]), torch.tensor([packed.positions])
    logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0]
    return cross_entropy(
        logits[:-1], torch.tensor(packed.labels[1:]), ignore_index=IGNORED, reduction="sum"
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", MODELS)
def test_the_loss_and_its_gradient_are_those_of_the_rows_alone(name: str, attention: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().train()
    model.set_attn_implementation(attention)
    rows = some_rows(1)
    packed = flatten(rows)
    whole = summed_loss(model, packed)
    (gradient,) = torch.autograd.grad(whole, [model.lm_head.weight])
    alone = sum(summed_loss(model, flatten([row])) for row in rows)
    (expected,) = torch.autograd.grad(alone, [model.lm_head.weight])
    torch.testing.assert_close(whole, alone, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


def test_the_loss_would_differ_if_rows_saw_each_other() -> None:
    torch.manual_seed(0)
    model = MODELS["llama"]().train()
    packed = flatten(some_rows(1))
    apart = summed_loss(model, packed)
    mixed = summed_loss(model, replace(packed, positions=list(range(len(packed.ids)))))
    assert abs((apart - mixed).item()) > 1e-3


@given(st.lists(st.integers(1, 50), max_size=200))
def test_every_row_is_in_one_pack_and_no_pack_is_too_full(lengths: list[int]) -> None:
    packs = pack(lengths, 50)
    assert sorted(i for one in packs for i in one) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in one) <= 50 for one in packs)


def test_rows_of_alpaca_like_lengths_fill_their_packs() -> None:
    chance = random.Random(0)
    lengths = [min(2048, int(chance.lognormvariate(4.6, 0.8)) + 20) for _ in range(5_000)]
    packs = pack(lengths, 2048)
    assert sum(lengths) / (2048 * len(packs)) > 0.995


def test_a_row_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="row 1 has 9 tokens"):
        pack([3, 9], 8)


def test_the_first_token_of_a_row_is_not_learnt() -> None:
    row = Masked((5, 6), (True, True))
    assert flatten([row, row]).labels == [IGNORED, 6, IGNORED, 6]
    assert flatten([row, row]).positions == [0, 1, 0, 1]


def test_a_row_is_cut_with_its_mask() -> None:
    assert cut(Masked((1, 2, 3), (False, True, True)), 2) == Masked((1, 2), (False, True))


def test_padding_is_counted() -> None:
    assert waste([[10, 2], [4, 4]], padded=True).share == 20 / 28
    assert waste([[10, 2], [4, 4]], padded=False).share == 1.0
