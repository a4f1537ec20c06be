"""Exactly the replies are learnt, with what ends them, in every template of the library."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from modules.chat.messages import Message
from modules.chat.template import render
from modules.chat.template_library import LIBRARY
from modules.errors import DatasetError
from modules.training.examples import Example
from modules.training.masking import Marked, Masked, mark, mask

CHAT = (
    Message("system", "Be brief."),
    Message("user", "What is up?"),
    Message("assistant", "The sky."),
    Message("user", "And down?"),
    Message("assistant", "The sky. No: the ground."),
)
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


class Pieces:
    """A tokenizer of words, spaces and marks such as <|im_end|>; ids are places in `known`."""

    def __init__(self) -> None:
        self.known: list[str] = []

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        found = [*re.finditer(r"<[^<>\s]+>| ?\w+|\s|[^\w\s]", text)]
        return [self.id_of(m[0]) for m in found], [m.span() for m in found]

    def id_of(self, piece: str) -> int:
        if piece not in self.known:
            self.known.append(piece)
        return self.known.index(piece)

    def read(self, masked: Masked) -> str:
        pairs = zip(masked.ids, masked.learnt, strict=True)
        return "".join(self.known[i] if learnt else "|" for i, learnt in pairs)


def by(template: str) -> object:
    def rendered(messages: Sequence[Message]) -> str:
        return render(template, messages, special_tokens=SPECIAL, add_generation_prompt=False)

    return rendered


def learnt(text: Marked) -> list[str]:
    return [text.text[start:end] for start, end in text.learnt]


@pytest.mark.parametrize("key", LIBRARY)
def test_the_replies_are_learnt_and_nothing_else(key: str) -> None:
    marked = mark(Example("", CHAT), by(LIBRARY[key].source))
    assert learnt(marked) == ["The sky.", "The sky. No: the ground."]


@pytest.mark.parametrize("key", LIBRARY)
def test_the_last_reply_alone(key: str) -> None:
    marked = mark(Example("", CHAT), by(LIBRARY[key].source), "last reply")
    assert learnt(marked) == ["The sky. No: the ground."]


def test_everything_is_the_whole_text() -> None:
    marked = mark(Example("", CHAT), by(LIBRARY["chatml"].source), "everything")
    assert learnt(marked) == [marked.text]


def test_plain_text_is_learnt_as_a_whole() -> None:
    assert mark(Example("", text="Once."), by("")) == Marked("Once.", ((0, 5),))


def test_a_reply_that_says_what_the_user_said_is_found_in_its_own_place() -> None:
    chat = (Message("user", "Hi"), Message("assistant", "Hi"))
    marked = mark(Example("", chat), by(LIBRARY["chatml"].source))
    ((start, _),) = marked.learnt
    assert marked.text[:start].endswith("<|im_start|>assistant\n")


def test_a_template_that_trims_replies_is_followed() -> None:
    trims = "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}\n{% endfor %}"
    chat = (Message("user", "Q"), Message("assistant", "  A \n"))
    assert learnt(mark(Example("", chat), by(trims))) == ["A"]


def test_a_template_that_alters_a_reply_is_found_out() -> None:
    alters = "{% for m in messages %}{{ m.content | replace('sky', 'sea') }}\n{% endfor %}"
    with pytest.raises(DatasetError, match="as it is written"):
        mark(Example("", CHAT), by(alters))


@pytest.mark.parametrize("key", LIBRARY)
@pytest.mark.parametrize("reply", ["A ", "A\n", " A", "A \n ", "A\n\n"])
def test_space_around_a_reply_is_told_from_that_of_the_template(key: str, reply: str) -> None:
    chat = (Message("user", "Q"), Message("assistant", reply), *CHAT[1:3])
    said, _ = learnt(mark(Example("", chat), by(LIBRARY[key].source)))
    assert said.strip() == "A"


def test_the_last_reply_can_be_learnt_where_earlier_ones_are_altered() -> None:
    alters = """{% for m in messages %}{{ m.role }}: {{
        m.content if loop.last else m.content | replace("sky", "sea") }}\n{% endfor %}"""
    marked = mark(Example("", CHAT), by(alters), "last reply")
    assert learnt(marked) == ["The sky. No: the ground."]


def test_a_template_that_drops_earlier_replies_is_found_out() -> None:
    drops = "{{ messages[-1].content }}"
    with pytest.raises(DatasetError):
        mark(Example("", CHAT), by(drops))


def test_what_ends_a_turn_is_learnt_and_what_follows_it_is_not() -> None:
    pieces = Pieces()
    marked = mark(Example("", CHAT[1:3]), by(LIBRARY["chatml"].source))
    masked = mask(marked, pieces, {pieces.id_of("<|im_end|>")})
    assert pieces.read(masked).strip("|") == "The sky.<|im_end|>"


def test_an_end_of_the_users_turn_is_not_learnt() -> None:
    pieces = Pieces()
    marked = mark(Example("", CHAT), by(LIBRARY["chatml"].source))
    masked = mask(marked, pieces, {pieces.id_of("<|im_end|>")})
    assert pieces.read(masked).count("<|im_end|>") == 2


def test_white_space_may_stand_before_the_end() -> None:
    pieces = Pieces()
    marked = mark(Example("", CHAT[:3]), by(LIBRARY["llama-2"].source))
    masked = mask(marked, pieces, {pieces.id_of("</s>")})
    assert pieces.read(masked).strip("|") == " The sky. </s>"


def test_a_token_that_holds_the_first_letter_is_learnt() -> None:
    masked = mask(Marked("a b", ((2, 3),)), Pieces(), set())
    assert masked.learnt == (False, True)
