"""Which template a config means, and that a model learns to end its turn by any of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from modules.chat.messages import Message
from modules.chat.template_library import LIBRARY
from modules.errors import InvalidInputError
from modules.training.config import TrainingConfig
from modules.training.examples import Example
from modules.training.masking import mark, mask
from modules.training.templates import chat_format
from modules.training.tokenizer import FileTokenizer
from tests.training.bases import byte_level_base, llama_base

CHAT = (Message("user", "Hi"), Message("assistant", "Ho"))


def test_the_models_own_template_is_taken_unless_one_is_chosen(tmp_path: Path) -> None:
    base = byte_level_base(tmp_path / "base")
    tokenizer = FileTokenizer(base)
    own = chat_format(TrainingConfig(), tokenizer, base)
    assert own.key == "own"
    assert own.render(CHAT) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n"
    )
    chosen = chat_format(TrainingConfig(template="vicuna-1.1"), tokenizer, base)
    assert chosen.render(CHAT).endswith("USER: Hi ASSISTANT: Ho<|im_end|>")


def test_a_model_without_a_template_gets_what_the_chat_would_pick(tmp_path: Path) -> None:
    base = llama_base(tmp_path / "my-vicuna-7b")
    found = chat_format(TrainingConfig(), FileTokenizer(base), base)
    assert found.key == "vicuna-1.1"
    assert "vicuna" in found.reason


def test_an_unknown_template_names_the_nearest(tmp_path: Path) -> None:
    base = byte_level_base(tmp_path / "base")
    with pytest.raises(InvalidInputError, match=r"alpacca.*alpaca"):
        chat_format(TrainingConfig(template="alpacca"), FileTokenizer(base), base)


@pytest.mark.parametrize("key", LIBRARY)
@pytest.mark.parametrize("make", [byte_level_base, llama_base])
def test_the_end_of_the_last_turn_is_learnt_in_every_template(
    tmp_path: Path, key: str, make: Callable[[Path], Path]
) -> None:
    base = make(tmp_path / "base")
    tokenizer = FileTokenizer(base)
    found = chat_format(TrainingConfig(template=key), tokenizer, base)
    marked = found.with_ends(mark(Example("", CHAT), found.render))
    masked = mask(marked, tokenizer, found.ends)
    learnt = [i for i, flag in zip(masked.ids, masked.learnt, strict=True) if flag]
    assert learnt[-1] in found.ends
    assert not any(i in found.ends for i in learnt[:-1]), "the question's end is not"


def test_a_mark_that_the_tokenizer_does_not_know_is_learnt_as_text(tmp_path: Path) -> None:
    base = llama_base(tmp_path / "base")
    found = chat_format(TrainingConfig(template="gemma"), FileTokenizer(base), base)
    marked = found.with_ends(mark(Example("", CHAT), found.render))
    ((start, end),) = marked.learnt
    assert marked.text[start:] == "Ho<end_of_turn></s>"
    assert marked.text[start:end] == "Ho<end_of_turn>"


def test_no_end_is_added_where_none_is_wanted(tmp_path: Path) -> None:
    base = llama_base(tmp_path / "base")
    config = TrainingConfig(template="plain", add_eos=False)
    assert chat_format(config, FileTokenizer(base), base).render(CHAT).endswith("Assistant: Ho\n")
