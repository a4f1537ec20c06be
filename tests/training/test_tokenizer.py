"""The tokenizer from files gives the ids of transformers' tokenizer, and says where they stand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modules.errors import ModelNotFoundError, NotAModelError
from modules.training.tokenizer import FileTokenizer
from tests.starter import provide_starter
from tests.training.bases import byte_level_base, llama_base

TEXTS = (
    "",
    "Hello",
    " two  spaces, three   and a tab\t.",
    "\n\nlines\n",
    "Grüße, 漢字 und 😀👩‍👩‍👧",
    "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello </s>",
    "<|im_start|>user\nHow are you today?<|im_end|>\n<|im_start|>assistant\n",
    "12345 0x1F a\u0000b ▁ \u200b",
)


def with_older_files(folder: Path) -> Path:
    older = {"eos_token": "<|endoftext|>", "pad_token": {"content": "[PAD]", "lstrip": False}}
    (folder / "special_tokens_map.json").write_text(json.dumps(older))
    (folder / "added_tokens.json").write_text('{"[PAD]": 401, "[INST]": 400}')
    return folder


Make = Callable[[Path], Path]
BASES: dict[str, Make] = {
    "byte-level": byte_level_base,
    "byte-level whose settings add a beginning": lambda f: byte_level_base(f, add_bos_token=True),
    "byte-level with a token in its settings alone": lambda f: byte_level_base(
        f, pad_token="[PAD]", added_tokens_decoder={"400": {"content": "[INST]", "special": False}}
    ),
    "byte-level with older files beside it": lambda f: with_older_files(byte_level_base(f)),
    "byte-level with tokens of a model's own": lambda f: byte_level_base(
        f, additional_special_tokens=["[INST]", "<<SYS>>"]
    ),
    "Llama": llama_base,
    "Llama as before its tokenizer was mended": lambda f: llama_base(f, legacy=True),
    "Llama without a prefix": lambda f: llama_base(f, add_prefix_space=False),
    "Llama whose settings add no beginning": lambda f: llama_base(f, add_bos_token=False),
    "Code Llama": lambda f: llama_base(f, tokenizer_class="CodeLlamaTokenizer", legacy=True),
    "Mistral": lambda f: llama_base(f, "mistral", tokenizer_class="LlamaTokenizerFast"),
}


def transformers_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


@pytest.mark.parametrize("name", BASES)
def test_ids_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    folder = BASES[name](tmp_path / "base")
    ours, theirs = FileTokenizer(folder), transformers_tokenizer(folder)
    for text in TEXTS:
        assert ours.encode(text)[0] == theirs.encode(text, add_special_tokens=False), text
        plain = ([] if ours.bos is None else [ours.bos]) + ours.encode(text)[0]
        assert plain == theirs.encode(text), text
    assert ours.special_tokens.items() <= theirs.special_tokens_map.items()


@pytest.mark.starter
def test_ids_of_the_starter_are_those_of_transformers() -> None:
    folder = provide_starter()
    ours, theirs = FileTokenizer(folder), transformers_tokenizer(folder)
    for text in TEXTS:
        assert ours.encode(text)[0] == theirs.encode(text, add_special_tokens=False), text
        assert ours.encode(text)[0] == theirs.encode(text), text
    assert ours.special_tokens == theirs.special_tokens_map
    assert ours.chat_template == theirs.chat_template
    assert ours.end_ids == {theirs.eos_token_id}


@pytest.mark.parametrize("name", BASES)
def test_what_the_tokens_show_is_the_text(name: str, tmp_path: Path) -> None:
    tokenizer = FileTokenizer(BASES[name](tmp_path / "base"))
    for text in TEXTS:
        ids, offsets = tokenizer.encode(text)
        pieces = tokenizer.pieces(text, (ids, offsets))
        shown, at = "", 0
        for piece, (_, stop) in zip(pieces, offsets, strict=True):
            shown += piece if stop > at else ""  # others are names of bytes within a character
            at = max(at, stop)
        assert shown == text


def test_many_texts_give_what_each_gives(tmp_path: Path) -> None:
    tokenizer = FileTokenizer(byte_level_base(tmp_path / "base"))
    assert tokenizer.encode_batch(TEXTS) == [tokenizer.encode(text) for text in TEXTS]


def test_all_tokens_that_end_a_turn_are_known(tmp_path: Path) -> None:
    folder = byte_level_base(tmp_path / "base")
    (folder / "generation_config.json").write_text('{"eos_token_id": [0, 2, 99999]}')
    assert FileTokenizer(folder).end_ids == {0, 2}


def test_the_default_of_several_templates_is_taken(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    folder = llama_base(tmp_path / "base", chat_template=named)
    assert FileTokenizer(folder).chat_template == "D"


def test_a_missing_folder_or_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        FileTokenizer(tmp_path / "nowhere")
    with pytest.raises(NotAModelError, match=r"tokenizer\.json"):
        FileTokenizer(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "[1]", json.dumps({"model": {"type": "BPE"}})])
def test_a_damaged_file_is_told(content: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(NotAModelError, match=r"tokenizer\.json"):
        FileTokenizer(tmp_path)
