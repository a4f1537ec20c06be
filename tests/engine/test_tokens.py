"""The text of each token: joined they are the input, alone they can be read."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from modules.engine.worker.tokens import encode, pieces, text_after
from modules.loader.transformers_loader import LoadedModel

TEXTS = [
    "the capital  of\n\tfrance",
    " café — “ok”",
    "日本語 👩‍👧",
    "<|im_start|>user\nhi",
    "",
    "  ",
]


@pytest.fixture(params=["bytes", "sentencepiece"])
def tokenizer(request: pytest.FixtureRequest, tiny: LoadedModel) -> PreTrainedTokenizerBase:
    """The two ways in which tokenizers write spaces and unknown characters."""
    if request.param == "bytes":
        return tiny.tokenizer
    words = [
        "<unk>",
        *(f"<0x{b:02X}>" for b in range(256)),
        "▁",
        "t",
        "h",
        "e",
        "th",
        "the",
        "▁the",
    ]
    merges = [("t", "h"), ("th", "e"), ("▁", "the")]
    vocabulary = {word: place for place, word in enumerate(words)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made)


@pytest.mark.parametrize("text", TEXTS)
def test_the_texts_of_the_tokens_are_the_text(
    text: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    found = pieces(tokenizer, text, False)
    assert "".join(piece for _, piece in found) == text
    assert [i for i, _ in found] == encode(tokenizer, text, False)


def test_a_character_in_several_tokens_is_shown_with_its_last(tiny: LoadedModel) -> None:
    texts = [text for _, text in pieces(tiny.tokenizer, "—", False)]
    assert (texts[:-1], texts[-1]) == ([""] * (len(texts) - 1), "—")
    assert len(texts) > 1


def test_what_the_tokenizer_adds_is_shown_too(tokenizer: PreTrainedTokenizerBase) -> None:
    found = pieces(tokenizer, "the", True)
    assert [i for i, _ in found] == encode(tokenizer, "the", True)


def test_a_tokenizer_that_knows_no_places_shows_each_token_alone(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(tiny.tokenizer), "is_fast", False)
    assert "".join(text for _, text in pieces(tiny.tokenizer, "the capital", False)) == (
        "the capital"
    )


def test_half_an_emoji_does_no_harm(tiny: LoadedModel) -> None:
    assert "".join(text for _, text in pieces(tiny.tokenizer, "a\ud83e", False)) == "a?"


def test_a_next_token_shows_the_space_before_it(tokenizer: PreTrainedTokenizerBase) -> None:
    before = encode(tokenizer, "the", False)
    following = encode(tokenizer, "the the", False)[len(before) :]
    assert text_after(tokenizer, before, following[0])[0] == " "


def test_a_part_of_a_character_is_shown_by_its_bytes(tiny: LoadedModel) -> None:
    *parts, last = encode(tiny.tokenizer, "—", False)
    assert text_after(tiny.tokenizer, [], parts[0]).startswith("\\xe2")
    assert text_after(tiny.tokenizer, parts, last) == "—"
