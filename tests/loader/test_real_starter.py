"""The starter as it comes out of the real fetch and the real conversion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modules.loader.checkpoint import check_checkpoint
from modules.loader.starter import STARTER
from tests.starter import provide_starter

pytestmark = pytest.mark.starter

# From the tokens and merges in the GGUF file by a plain implementation of BPE, with the
# two expressions that llama.cpp lists for `smollm`.
IDS = {
    "Hello world, it's fine": [19556, 905, 28, 357, 506, 4979],
    "def f(x):\n    return x\n\n\n\tpass": [
        1604,
        275,
        24,
        104,
        727,
        472,
        1003,
        1792,
        16506,
        197,
        5467,
    ],
    "🙂 naïve 你 ½": [10813, 38887, 15486, 46494, 216, 18645, 250, 216, 16738],
    "a  1   22    3": [81, 256, 33, 333, 34, 34, 289, 35],
    "<|im_start|>user\nHi<|im_end|>\n": [1, 4093, 198, 26843, 2, 198],
    "  both  ends  ": [216, 1062, 216, 6947, 256],
}


@pytest.fixture(scope="module")
def starter() -> Path:
    return provide_starter()


@pytest.fixture(scope="module")
def tokenizer(starter: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(starter)


def test_it_is_a_complete_and_safe_checkpoint(starter: Path) -> None:
    checkpoint = check_checkpoint(starter)
    assert checkpoint.architecture == "LlamaForCausalLM"
    assert checkpoint.context_length == 8192
    assert checkpoint.template_source == "chat_template.jinja"
    assert checkpoint.quantization is None


def test_the_tied_embedding_is_stored_once(starter: Path) -> None:
    assert check_checkpoint(starter).size_bytes == 269_060_552


def test_generation_ends_at_the_end_of_a_turn(starter: Path, tokenizer: Any) -> None:
    settings = json.loads((starter / "generation_config.json").read_text())
    assert tokenizer.convert_ids_to_tokens(settings["eos_token_id"]) == "<|im_end|>"


def test_its_origin_and_licence_lie_beside_it(starter: Path) -> None:
    origin = (starter / "ORIGIN.md").read_text()
    assert all(fact in origin for fact in (STARTER.licence, STARTER.sha256, STARTER.author))


@pytest.mark.parametrize("text", IDS)
def test_the_tokens_are_those_of_the_original(tokenizer: Any, text: str) -> None:
    assert tokenizer.encode(text) == IDS[text]
    assert tokenizer.decode(IDS[text]) == text


def test_the_chat_template_gives_turns(tokenizer: Any) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_it_knows_the_capital_of_france(starter: Path, tokenizer: Any) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(starter, dtype=torch.float32)
    turns = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    reply = model.generate(**prompt, max_new_tokens=20, do_sample=False)[0]
    text = tokenizer.decode(reply[prompt["input_ids"].shape[1] :])
    assert text == "The capital of France is Paris.<|im_end|>"
