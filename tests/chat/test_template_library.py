"""The library of chat templates: their exact text, and which model gets which."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from modules.chat.messages import Message
from modules.chat.template import render
from modules.chat.template_choice import TemplateChoices, turn_end
from modules.chat.template_library import LIBRARY, Evidence, gather_evidence, pick
from modules.engine.fake import CHATML
from modules.engine.protocol import ModelInfo
from modules.errors import InvalidInputError, SettingsError

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
SYSTEM = Message("system", "Be brief.")
CHAT = [Message("user", "Hi"), Message("assistant", "Hello."), Message("user", " Bye\n")]

ALPACA = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant "
    "gives helpful, detailed, and polite answers to the user's questions."
)
GUANACO = VICUNA.replace("curious user", "curious human")

# Of each format: one question, and three turns with a system message.
EXPECTED = {
    "llama-2": (
        "<s>[INST] Hi [/INST]",
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello. </s><s>[INST] Bye [/INST]",
    ),
    "llama-3": (
        "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "chatml": (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
    "mistral": (
        "<s>[INST] Hi [/INST]",
        "<s>[INST] Be brief.\n\nHi [/INST] Hello.</s>[INST] Bye [/INST]",
    ),
    "zephyr": (
        "<s><|user|>\nHi</s>\n<|assistant|>\n",
        "<s><|system|>\nBe brief.</s>\n<|user|>\nHi</s>\n<|assistant|>\nHello.</s>\n"
        "<|user|>\nBye</s>\n<|assistant|>\n",
    ),
    "vicuna-1.1": (
        f"<s>{VICUNA} USER: Hi ASSISTANT:",
        "<s>Be brief. USER: Hi ASSISTANT: Hello.</s>USER: Bye ASSISTANT:",
    ),
    "alpaca": (
        f"<s>{ALPACA}\n\n### Instruction:\nHi\n\n### Response:\n",
        "<s>Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHello.</s>\n\n"
        "### Instruction:\nBye\n\n### Response:\n",
    ),
    "gemma": (
        "<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
        "<s><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\n"
        "Hello.<end_of_turn>\n<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n",
    ),
    "phi-3": (
        "<|user|>\nHi<|end|>\n<|assistant|>\n",
        "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nHello.<|end|>\n"
        "<|user|>\nBye<|end|>\n<|assistant|>\n",
    ),
    "guanaco": (
        f"<s>{GUANACO}\n### Human: Hi\n### Assistant:",
        "<s>Be brief.\n### Human: Hi\n### Assistant: Hello.\n### Human: Bye\n### Assistant:",
    ),
    "openassistant": (
        "<|prompter|>Hi</s><|assistant|>",
        "<|system|>Be brief.</s><|prompter|>Hi</s><|assistant|>Hello.</s>"
        "<|prompter|>Bye</s><|assistant|>",
    ),
    "plain": (
        "<s>User: Hi\nAssistant:",
        "<s>Be brief.\n\nUser: Hi\nAssistant: Hello.\nUser: Bye\nAssistant:",
    ),
}


def test_every_template_of_the_library_is_tested() -> None:
    assert EXPECTED.keys() == LIBRARY.keys()


@pytest.mark.parametrize("key", EXPECTED)
def test_a_question_alone(key: str) -> None:
    text = render(LIBRARY[key].source, CHAT[:1], special_tokens=SPECIAL)
    assert text == EXPECTED[key][0]


@pytest.mark.parametrize("key", EXPECTED)
def test_three_turns_with_a_system_message(key: str) -> None:
    text = render(LIBRARY[key].source, [SYSTEM, *CHAT], special_tokens=SPECIAL)
    assert text == EXPECTED[key][1]


@pytest.mark.parametrize("key", EXPECTED)
def test_a_continued_reply_follows_what_opens_a_reply(key: str) -> None:
    source = LIBRARY[key].source
    opened = render(source, CHAT[:1], special_tokens=SPECIAL)
    continued = render(source, CHAT[:2], special_tokens=SPECIAL, continue_final=True)
    assert continued.removeprefix(opened) in ("Hello.", " Hello.")


@pytest.mark.parametrize("key", EXPECTED)
def test_a_tokenizer_without_special_tokens_writes_none(key: str) -> None:
    text = render(LIBRARY[key].source, CHAT, special_tokens={})
    assert "None" not in text
    assert text == render(LIBRARY[key].source, CHAT, special_tokens=SPECIAL).replace(
        "<s>", ""
    ).replace("</s>", "")


@pytest.mark.parametrize("key", EXPECTED)
def test_a_chat_may_open_with_a_greeting(key: str) -> None:
    greeted = [SYSTEM, CHAT[1], CHAT[0]]
    text = render(LIBRARY[key].source, greeted, special_tokens=SPECIAL)
    assert text.index("Hello.") < text.index("Hi") and "Be brief." in text


# -- picking ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("TheBloke_Llama-2-7B-Chat-GPTQ", "llama-2"),
        ("Llama-2-70B-chat-GPTQ", "llama-2"),
        ("CodeLlama-34B-Instruct-GPTQ", "llama-2"),
        ("Meta-Llama-3-8B-Instruct", "llama-3"),
        ("Llama-3.2-1B-Instruct", "llama-3"),
        ("vicuna-13B-v1.5-16K-GPTQ", "vicuna-1.1"),
        ("Wizard-Vicuna-30B-Uncensored-GPTQ", "vicuna-1.1"),
        ("WizardLM-13B-V1.2-GPTQ", "vicuna-1.1"),
        ("alpaca-native-4bit", "alpaca"),
        ("MythoMax-L2-13B-GPTQ", "alpaca"),
        ("Nous-Hermes-Llama2-13b-GPTQ", "alpaca"),
        ("Nous-Hermes-2-Mixtral-8x7B-DPO-GPTQ", "chatml"),
        ("OpenHermes-2.5-Mistral-7B-AWQ", "chatml"),
        ("Mistral-7B-OpenOrca-GPTQ", "chatml"),
        ("dolphin-2.1-mistral-7B-GPTQ", "chatml"),
        ("Qwen2.5-0.5B-Instruct", "chatml"),
        ("Mistral-7B-Instruct-v0.2-GPTQ", "mistral"),
        ("Mixtral-8x7B-Instruct-v0.1", "mistral"),
        ("zephyr-7B-beta-AWQ", "zephyr"),
        ("TinyLlama-1.1B-Chat-v1.0-GPTQ", "zephyr"),
        ("gemma-2-2b-it", "gemma"),
        ("Phi-3-mini-4k-instruct", "phi-3"),
        ("guanaco-33B-GPTQ", "guanaco"),
        ("OpenAssistant-SFT-7-Llama-30B-GPTQ", "openassistant"),
        ("Llama-2-13B-GPTQ", "plain"),
        ("open_llama_3b_instruct", "plain"),
        ("pythia-160m", "plain"),
        ("Mistral-7B-v0.1", "plain"),
        ("falcon-7b-instruct", "plain"),
    ],
)
def test_a_name_tells_the_format(name: str, key: str) -> None:
    assert pick(Evidence(name)).template.key == key


@pytest.mark.parametrize(
    ("tokens", "key"),
    [
        (["<|im_start|>", "<|im_end|>"], "chatml"),
        (["<|start_header_id|>"], "llama-3"),
        (["<start_of_turn>"], "gemma"),
        (["<|prompter|>", "<|assistant|>"], "openassistant"),
        (["<|end|>", "<|assistant|>"], "phi-3"),
        (["[INST]"], "mistral"),
        (["<|assistant|>"], "plain"),
    ],
)
def test_the_tokens_of_the_tokenizer_tell_the_format(
    tmp_path: Path, tokens: list[str], key: str
) -> None:
    added = {"added_tokens": [{"id": i, "content": token} for i, token in enumerate(tokens)]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(added))
    assert pick(gather_evidence(tmp_path, "LlamaForCausalLM")).template.key == key


def test_the_reason_is_a_sentence() -> None:
    evidence = Evidence("My-Chat", tokenizer='{"content": "<|im_start|>"}')
    assert pick(evidence).reason == "The tokenizer has <|im_start|>, so ChatML."
    named = pick(Evidence("Llama-2-7B-Chat-GPTQ")).reason
    assert named == "Its name has “llama-2-7b-chat”, so Llama-2 chat."


def test_a_base_model_is_said_to_be_one() -> None:
    assert "a base model" in pick(Evidence("Llama-2-13B-GPTQ")).reason
    assert "base model" not in pick(Evidence("falcon-7b-instruct")).reason
    doubtful = pick(Evidence("Meta-Llama-3-8B", tokenizer='"<|start_header_id|>"'))
    assert (doubtful.template.key, "base model" in doubtful.reason) == ("llama-3", True)


def test_a_name_tells_more_than_tokens_that_a_base_left_behind() -> None:
    assert pick(Evidence("stablelm-zephyr-3b", tokenizer='"<|im_start|>"')).template.key == "zephyr"


def test_a_small_readme_tells_the_format_and_one_that_compares_several_does_not(
    tmp_path: Path,
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("### Instruction:\n{prompt}\n\n### Response:")
    assert pick(gather_evidence(tmp_path, "")).template.key == "alpaca"
    readme.write_text("### Instruction: is not [INST] <<SYS>>")
    assert pick(gather_evidence(tmp_path, "")).template.key == "plain"


def test_the_architecture_counts_for_a_model_that_is_to_chat() -> None:
    assert pick(Evidence("my-chat", "MistralForCausalLM")).template.key == "mistral"
    assert pick(Evidence("my-model", "MistralForCausalLM")).template.key == "plain"


# -- choosing ---------------------------------------------------------------------------


@pytest.fixture
def info(tmp_path: Path) -> ModelInfo:
    """A loaded Llama-2 chat without a template of its own."""
    return ModelInfo(
        name="Llama-2-7B-Chat-GPTQ",
        path=str(tmp_path / "Llama-2-7B-Chat-GPTQ"),
        architecture="LlamaForCausalLM",
        parameters=7,
        dtype="float16",
        quantization="GPTQ",
        device="cpu",
        context_length=4096,
        memory=1,
        chat_template=None,
        special_tokens=SPECIAL,
    )


def test_the_models_own_template_comes_first(info: ModelInfo) -> None:
    own = dataclasses.replace(info, chat_template=CHATML)
    assert TemplateChoices().template_of(own).source == CHATML
    assert TemplateChoices().template_of(own).key == "own"
    assert TemplateChoices().template_of(info).key == "llama-2"


def test_a_choice_by_hand_comes_before_all_and_is_kept(tmp_path: Path, info: ModelInfo) -> None:
    file = tmp_path / "templates.yaml"
    TemplateChoices(file).choose(info.name, "alpaca")
    own = dataclasses.replace(info, chat_template=CHATML)
    found = TemplateChoices(file).template_of(own)
    assert (found.key, found.reason, found.stop) == (
        "alpaca",
        "Chosen by hand.",
        ("### Instruction:",),
    )
    TemplateChoices(file).choose(info.name, "")
    assert TemplateChoices(file).template_of(own).key == "own"


def test_an_unknown_template_is_refused(tmp_path: Path) -> None:
    choices = TemplateChoices(tmp_path / "templates.yaml")
    with pytest.raises(InvalidInputError, match="no template 'lama-2'"):
        choices.choose("Tiny", "lama-2")
    for value in ("lama-2", "[llama-2]", "7"):
        (tmp_path / "templates.yaml").write_text(f"Tiny: {value}")
        with pytest.raises(SettingsError, match=r"Tiny in templates\.yaml"):
            choices.chosen("Tiny")


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (LIBRARY["phi-3"].source, ("<|end|>",)),
        (LIBRARY["llama-3"].source, ("<|eot_id|>",)),
        (LIBRARY["llama-2"].source, ()),
        (LIBRARY["guanaco"].source, ()),
        ("{{ raise_exception('no') }}", ()),
    ],
)
def test_a_reply_ends_where_the_models_own_template_ends_a_turn(
    template: str, end: tuple[str, ...]
) -> None:
    assert turn_end(template, SPECIAL) == end
