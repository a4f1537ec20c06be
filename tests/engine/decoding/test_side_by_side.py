"""Requests of all methods at once, with LoRAs, and on models that cannot serve them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import (
    JambaConfig,
    LlamaConfig,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedConfig,
)

from modules.engine.worker.kv_cache import can_rewind
from modules.engine.worker.scheduler import Scheduler
from modules.loader.transformers_loader import LoadedModel
from tests.engine.conftest import build_tokenizer
from tests.engine.decoding.conftest import Lab
from tests.engine.helpers import PROMPT, ask
from tests.engine.lora import base_model, make_adapter
from tests.engine.runners import RUNNERS
from tests.engine.test_methods import METHODS

PLAIN: dict[str, dict[str, Any]] = {"": {}, "sampled": {"do_sample": True, "seed": 4}}
ALL = {**METHODS, **PLAIN}


def test_each_reply_is_what_it_is_alone(lab: Lab) -> None:
    alone = {
        name: lab.reply(ask(name, PROMPT, max_new_tokens=25, **options))
        for name, options in ALL.items()
    }
    assert len({tuple(reply) for reply in alone.values()}) >= 4
    lab.spy.forget()
    lab.run(*(ask(name, PROMPT, max_new_tokens=25, **ALL[name]) for name in ALL), prefill_chunk=3)
    assert {name: lab.spy.replies[name] for name in ALL} == alone
    assert lab.held() == set()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_takes_its_turns_with_others(lab: Lab, name: str) -> None:
    replies = lab.run(
        ask("method", ban_eos_token=True, **METHODS[name]),
        *(ask(f"{n}", ban_eos_token=True) for n in range(3)),
        max_running=2,
    )
    assert all(reply.finished.usage.completion_tokens == 12 for reply in replies.values())


@pytest.mark.parametrize("name", METHODS)
def test_numbers_that_are_none_fail_the_request_alone(lab: Lab, name: str) -> None:
    lab.spy.poisoned.add("bad")
    replies = lab.run(ask("bad", **METHODS[name]), ask("good", ban_eos_token=True))
    assert "not finite" in replies["bad"].failed.message
    assert replies["good"].tokens == 12
    assert lab.held() == set()


@pytest.mark.parametrize("name", METHODS)
def test_a_model_that_cannot_serve_a_method_refuses_it_and_serves_on(lab: Lab, name: str) -> None:
    scheduler = Scheduler(lab.spy, lab.tokenizer, frozenset({2}), 256, unsupported=(name,))
    scheduler.add(ask(**METHODS[name]))
    scheduler.add(ask("plain"))
    first = scheduler.step()[0]
    assert "does not work with this model" in first.message  # type: ignore[union-attr]
    assert scheduler.has_work


@pytest.mark.parametrize(
    ("config", "able"),
    [
        (LlamaConfig(), True),
        (MistralConfig(sliding_window=None), True),
        (MistralConfig(sliding_window=256), False),
        (MistralConfig(sliding_window=257), True),
        (JambaConfig(), False),
    ],
)
def test_a_window_that_the_context_reaches_and_a_recurrent_state_cannot_be_cut_back(
    config: PreTrainedConfig, able: bool
) -> None:
    assert can_rewind(config, 256) == able


def test_beams_and_guidance_work_with_a_sliding_window() -> None:
    tokenizer = build_tokenizer()
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=8,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(3)
    lab = Lab(MistralForCausalLM(config).eval(), tokenizer, "transformers")
    for options in ({"num_beams": 3}, {"guidance_scale": 1.5}):
        reply = lab.reply(ask(max_new_tokens=20, **options))
        assert reply == lab.generate(lab.ids(), max_new_tokens=20, **options)


@pytest.mark.parametrize("kind", RUNNERS)
@pytest.mark.parametrize("name", METHODS)
def test_a_lora_applies_in_every_method(
    checkpoint: Path, tmp_path: Path, tiny: LoadedModel, name: str, kind: str
) -> None:
    folder = make_adapter(checkpoint, tmp_path / "lora")
    merged = PeftModel.from_pretrained(base_model(checkpoint), str(folder)).merge_and_unload()
    options = {"max_new_tokens": 15, "ban_eos_token": True, **METHODS[name]}
    expected = Lab(merged, tiny.tokenizer, "transformers").reply(ask(**options))
    lab = Lab(tiny.model, tiny.tokenizer, kind)
    base = lab.reply(ask("base", **options))
    lab.spy.load_adapter("a", folder, lab.ids())
    try:
        mixed = ask("mixed", adapters=(("a", 1.0),), **options)
        lab.run(mixed, ask("base again", **options))
    finally:
        lab.spy.unload_adapter("a")
    assert lab.spy.replies["mixed"] == expected != base
    assert lab.spy.replies["base again"] == base
