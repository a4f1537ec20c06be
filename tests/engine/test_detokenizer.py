"""Text from tokens: whole characters, right spaces, stop strings."""

from __future__ import annotations

import copy
import itertools

import pytest
from tokenizers import AddedToken

from modules.engine.worker.detokenizer import Detokenizer
from modules.engine.worker.tokens import encode, stop_ids
from modules.loader.transformers_loader import LoadedModel

EMOJI = "paris 🗼👩‍👩‍👧 é 漢字 is"


def push_all(detokenizer: Detokenizer, ids: list[int]) -> list[str]:
    return [*(detokenizer.push(i) for i in ids), detokenizer.flush()]


def stream(tiny: LoadedModel, text: str, *stop: str, prompt: str = "of") -> list[str]:
    ids = encode(tiny.tokenizer, text, False)
    return push_all(Detokenizer(tiny.tokenizer, encode(tiny.tokenizer, prompt, False), stop), ids)


@pytest.mark.parametrize("text", [EMOJI, " the capital", "the capital", "\n\n  x\t", "a\r\nb", ""])
def test_the_pieces_join_to_the_text(tiny: LoadedModel, text: str) -> None:
    assert "".join(stream(tiny, text)) == text


def test_no_piece_ever_shows_a_broken_character(tiny: LoadedModel) -> None:
    assert "\ufffd" not in "".join(stream(tiny, EMOJI))


def test_half_a_character_at_the_end_is_dropped(tiny: LoadedModel) -> None:
    ids = encode(tiny.tokenizer, "is 🗼", False)
    assert "".join(push_all(Detokenizer(tiny.tokenizer, [5], []), ids[:-1])) == "is "


def test_bytes_that_never_become_text_do_not_hold_the_rest_back(tiny: LoadedModel) -> None:
    broken = encode(tiny.tokenizer, "🗼", False)[-1:] * 40
    ids = [*broken, *encode(tiny.tokenizer, " is paris", False)]
    assert "".join(push_all(Detokenizer(tiny.tokenizer, [], []), ids)).endswith(" is paris")


def test_special_tokens_are_not_text(tiny: LoadedModel) -> None:
    assert "".join(stream(tiny, "rome<|im_start|> is")) == "rome is"


@pytest.mark.parametrize("size", range(1, 12))
def test_a_stop_string_cuts_wherever_its_tokens_break(tiny: LoadedModel, size: int) -> None:
    text = "the capital of france is paris"
    stop = text[9 : 9 + size]
    assert "".join(stream(tiny, text, stop)) == text[: text.index(stop)]


def test_no_part_of_a_stop_string_is_ever_shown(tiny: LoadedModel) -> None:
    pieces = stream(tiny, "rome\nUser: hello", "\nUser:")
    assert all("rome".startswith(shown) for shown in itertools.accumulate(pieces))


def test_what_only_began_like_a_stop_string_is_given_out_at_the_end(tiny: LoadedModel) -> None:
    assert "".join(stream(tiny, "rome END", "ENDING")) == "rome END"


def test_the_earliest_of_several_stop_strings_counts(tiny: LoadedModel) -> None:
    assert "".join(stream(tiny, "one two three", "three", "two")) == "one "


def test_stopped_tells_that_a_stop_string_came(tiny: LoadedModel) -> None:
    detokenizer = Detokenizer(tiny.tokenizer, [], ["pari"])
    for i in encode(tiny.tokenizer, "rome is", False):
        detokenizer.push(i)
    assert not detokenizer.stopped
    for i in encode(tiny.tokenizer, " paris", False):
        detokenizer.push(i)
    assert detokenizer.stopped


def test_a_bos_in_the_text_is_not_doubled(tiny: LoadedModel) -> None:
    class WithBos:
        """A tokenizer that adds its BOS, as Llama's does."""

        bos_token_id, eos_token_id, eos_token = 1, 2, "<|im_end|>"

        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            ids = tiny.tokenizer(text, add_special_tokens=False)["input_ids"]
            return {"input_ids": [1, *ids, 2] if add_special_tokens else ids}

    assert encode(WithBos(), "<|im_start|>is", True)[:2] != [1, 1]  # type: ignore[arg-type]
    assert encode(WithBos(), "is", True)[0] == 1  # type: ignore[arg-type]
    assert encode(WithBos(), "is", True)[-1] != 2  # type: ignore[arg-type]
    assert encode(WithBos(), "is", False)[0] != 1  # type: ignore[arg-type]


def test_half_an_emoji_in_a_prompt_is_no_error(tiny: LoadedModel) -> None:
    assert encode(tiny.tokenizer, "is \ud83d", False)


def test_a_special_token_can_be_a_stop_string(tiny: LoadedModel) -> None:
    assert stop_ids(tiny.tokenizer, ["<|im_end|>", "paris"]) == {2}


def test_a_special_token_without_a_name_of_its_own_can_be_one_too(tiny: LoadedModel) -> None:
    tokenizer = copy.deepcopy(tiny.tokenizer)
    tokenizer.add_tokens([AddedToken("<|eot_id|>", special=True)], special_tokens=True)
    (end,) = tokenizer("<|eot_id|>", add_special_tokens=False)["input_ids"]
    assert "<|eot_id|>" not in tokenizer.all_special_tokens
    assert stop_ids(tokenizer, ["<|eot_id|>"]) == {end}
