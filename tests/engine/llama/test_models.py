"""Every model of the family computes what transformers computes, and what does not fit is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from modules.engine.worker.llama.shape import unfit
from modules.loader.options import LoadOptions
from modules.loader.quantization.linear import QuantizedLinear
from modules.loader.transformers_loader import load
from tests.engine.llama.tracks import beginning, computed, greedy, ids_of, model_logits, track
from tests.engine.runners import llama_runner
from tests.loader.quantization.stored import Form, write_quantized

CONTEXT, LAYERS = 160, 2
PROMPT, REPLY = ids_of(37, seed=1), 48
TINY: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 40}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def llama(**changes: Any) -> LlamaConfig:
    return LlamaConfig(**TINY | changes)


def rope(**parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 1000.0, **parameters}}


def qwen2(**changes: Any) -> Qwen2Config:
    return Qwen2Config(**TINY | changes)


def mistral(**changes: Any) -> MistralConfig:
    return MistralConfig(**TINY | changes)


MODELS: dict[str, PreTrainedConfig] = {
    "llama, tied": llama(tie_word_embeddings=True),
    "llama, untied": llama(tie_word_embeddings=False),
    "llama, with biases": llama(attention_bias=True, mlp_bias=True),
    "llama, a key head for all": llama(num_key_value_heads=1),
    "llama, three query heads a key head": llama(hidden_size=96, num_attention_heads=6),
    "llama, a key head each": llama(num_key_value_heads=4),
    "llama, heads of 8": llama(head_dim=8),
    "llama, heads of 48": llama(head_dim=48),
    "llama, a rope stretched": llama(**rope(rope_type="linear", factor=4.0)),
    "llama, a rope as in llama 3": llama(**rope(**LLAMA3)),
    "llama, a rope with yarn": llama(**rope(**YARN)),
    "llama, an epsilon of its own": llama(rms_norm_eps=0.05),
    "mistral, no window": mistral(sliding_window=None),
    "mistral, a window as long as the context": mistral(sliding_window=CONTEXT),
    "qwen 2": qwen2(),
    "qwen 2, tied": qwen2(tie_word_embeddings=True),
    "qwen 3": Qwen3Config(**TINY, head_dim=32),
    "qwen 3, tied": Qwen3Config(**TINY, head_dim=16, tie_word_embeddings=True),
}
CLASSES: dict[type, type[PreTrainedModel]] = {
    LlamaConfig: LlamaForCausalLM,
    MistralConfig: MistralForCausalLM,
    Qwen2Config: Qwen2ForCausalLM,
    Qwen3Config: Qwen3ForCausalLM,
}


def random_model(config: PreTrainedConfig) -> PreTrainedModel:
    """In float32; norms and biases are random too, which as made are ones and zeros."""
    torch.manual_seed(5)
    model = CLASSES[type(config)](config).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data += torch.randn_like(parameter) * 0.2
    return model


def generated(model: PreTrainedModel, ids: list[int], count: int) -> list[int]:
    prompt = torch.tensor([ids])
    with torch.inference_mode():
        whole = model.generate(  # type: ignore[operator]
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            min_new_tokens=count,
            max_new_tokens=count,
            pad_token_id=0,
            eos_token_id=None,
        )
    reply: list[int] = whole[0, len(ids) :].tolist()
    return reply


@pytest.mark.parametrize("name", MODELS)
def test_greedy_equals_generate(name: str) -> None:
    model = random_model(MODELS[name])
    expected = generated(model, PROMPT, REPLY)
    assert len(set(expected)) > 5
    assert unfit(model, CONTEXT) == ""
    runner = llama_runner(model, CONTEXT, CONTEXT)
    assert greedy(runner, PROMPT, REPLY, chunk=7) == expected


@pytest.mark.parametrize("name", MODELS)
def test_the_logits_are_those_of_transformers(name: str) -> None:
    model, rest = random_model(MODELS[name]), ids_of(30, seed=2)
    expected = model_logits(model, PROMPT + rest)
    runner = llama_runner(model, CONTEXT, CONTEXT)
    one = track(PROMPT)
    first = beginning(runner, one, chunk=9)
    close = {"atol": 1e-4, "rtol": 1e-4}
    torch.testing.assert_close(first, expected[len(PROMPT) - 1], **close)
    torch.testing.assert_close(computed(runner, one, rest), expected[len(PROMPT) :], **close)


# -- packed weights -----------------------------------------------------------------------

FORMS = {
    "gptq": Form(),
    "gptq in its own order": Form(act_order=True, symmetric=False),
    "gptq in 8 bits": Form(bits=8, symmetric=False),
    "gptq in 3 bits": Form(bits=3, symmetric=False),
    "gptq in 2 bits, groups of a row": Form(bits=2, group_size=-1),
    "gptq with biases": Form(bias=True),
    "awq": Form(method="awq", symmetric=False, version="gemm"),
}


@pytest.mark.parametrize("name", FORMS)
def test_packed_weights_compute_what_they_compute_in_transformers(
    name: str, tmp_path: Path, checkpoint: Path
) -> None:
    write_quantized(tmp_path / "model", FORMS[name], checkpoint)
    options = LoadOptions(device="cpu", dtype="float32")
    model = load(tmp_path / "model", lambda stage, fraction: None, options).model
    assert sum(isinstance(module, QuantizedLinear) for module in model.modules()) == 7 * LAYERS
    ids, rest = ids_of(40, vocabulary=320), ids_of(8, seed=1, vocabulary=320)
    expected = model_logits(model, ids + rest)
    runner = llama_runner(model, 128, 128)
    one = track(ids)
    found = torch.stack([beginning(runner, one, chunk=11), *computed(runner, one, rest)])
    assert float((found - expected[39:]).norm() / expected[39:].norm()) < 1e-5


# -- what does not fit --------------------------------------------------------------------


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=128, n_embd=32, n_layer=1, n_head=2))


def gemma() -> PreTrainedModel:
    return GemmaForCausalLM(GemmaConfig(**TINY, head_dim=16))


def dynamic() -> PreTrainedModel:
    return LlamaForCausalLM(llama(**rope(rope_type="dynamic", factor=2.0)))


def other_activation() -> PreTrainedModel:
    return LlamaForCausalLM(llama(hidden_act="gelu"))


def short_window() -> PreTrainedModel:
    return MistralForCausalLM(mistral(sliding_window=CONTEXT - 1))


def short_window_in_some_layers() -> PreTrainedModel:
    return Qwen2ForCausalLM(qwen2(use_sliding_window=True, sliding_window=32, max_window_layers=1))


def in_two_places() -> PreTrainedModel:
    model = LlamaForCausalLM(llama())
    model.model.layers[1].to("meta")
    return model


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (gpt2, "GPT2LMHeadModel is no Llama"),
        (gemma, "GemmaForCausalLM is no Llama"),
        (dynamic, "kind dynamic"),
        (other_activation, "activation is gelu"),
        (short_window, "window of 159 tokens is shorter than the context"),
        (short_window_in_some_layers, "window of 32 tokens is shorter than the context"),
        (in_two_places, "several devices"),
    ],
)
def test_what_does_not_fit_is_told_with_its_reason(make: Any, reason: str) -> None:
    assert reason in unfit(make(), CONTEXT)


def test_a_window_that_no_layer_uses_does_not_matter() -> None:
    assert unfit(Qwen2ForCausalLM(qwen2(sliding_window=32)), CONTEXT) == ""
