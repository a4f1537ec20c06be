"""For any template and tokenizer, the tokens that are learnt are those of the replies."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from modules.chat.messages import Message
from modules.chat.template_library import LIBRARY
from modules.training.config import TrainingConfig
from modules.training.encoding import Encoder, Ready
from modules.training.examples import Example
from modules.training.rows import Problem, Row
from modules.training.sources import Item
from tests.training.bases import byte_level_base, llama_base

SAID = (
    "Hi",
    "  two  spaces ",
    "Grüße 😀👩‍👧",
    "漢字\n\nlines\n",
    "x < y > z",
    "1 234",
    "user",
    ".",
)


def conversation(chance: random.Random) -> tuple[Message, ...]:
    system = [Message("system", "Be brief.")] * chance.randint(0, 1)
    turns = []
    for _ in range(chance.randint(1, 3)):
        turns.append(Message("user", chance.choice(SAID)))
        turns.append(Message("assistant", " ".join(chance.choices(SAID, k=chance.randint(1, 3)))))
    return (*system, *turns)


def encoded(encoder: Encoder, *messages: Message) -> Ready:
    (ready,) = encoder.encode([Item(Row("a", 1, {}), Example("a, row 1", messages))])
    assert isinstance(ready, Ready), ready
    return ready


@pytest.mark.parametrize("make", [byte_level_base, llama_base])
@pytest.mark.parametrize("key", LIBRARY)
def test_replies_are_learnt_whole_and_questions_never(
    key: str, make: Callable[[Path], Path], tmp_path: Path
) -> None:
    encoder = Encoder(TrainingConfig(template=key, cutoff_len=16_384), make(tmp_path / "base"))
    for seed in range(10):
        messages = conversation(random.Random(seed))
        ready = encoded(encoder, *messages)
        covered = [False] * len(ready.text)
        for (begin, end), learnt in zip(ready.encoded[1], ready.masked.learnt, strict=True):
            covered[begin:end] = [learnt or one for one in covered[begin:end]]
        at = 0
        for message in messages:
            said = message.content.strip()
            start = ready.text.index(said, at)
            at = start + len(said)
            # A token may reach into a question from the mark before it, but no further.
            assert all(covered[start:at]) == (message.role == "assistant")
            assert any(covered[start:at]) == (message.role == "assistant")


@pytest.mark.parametrize("make", [byte_level_base, llama_base])
def test_a_row_is_encoded_alike_alone_and_among_others(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    encoder = Encoder(TrainingConfig(template="llama-2"), make(tmp_path / "base"))
    chats = [conversation(random.Random(seed)) for seed in range(600)]
    items = [Item(Row("a", i, {}), Example(f"a, row {i}", chat)) for i, chat in enumerate(chats)]
    together = list(encoder.encode(items))
    for i in (0, 255, 256, 599):
        one = together[i]
        assert isinstance(one, Ready)
        assert one.masked == encoded(encoder, *chats[i]).masked


def test_what_cannot_be_rendered_is_a_problem_of_its_row(tmp_path: Path) -> None:
    base = byte_level_base(tmp_path / "base")
    (base / "chat_template.jinja").write_text(
        "{% for m in messages %}{% if m.content == 'no' %}{{ raise_exception('I refuse') }}"
        "{% endif %}{{ m.content }}<|im_end|>{% endfor %}"
    )
    encoder = Encoder(TrainingConfig(), base)
    chats = [(Message("user", said), Message("assistant", "Ho")) for said in ("yes", "no", "yes")]
    items = [Item(Row("a", i, {}), Example(f"a, row {i}", c)) for i, c in enumerate(chats, 1)]
    first, refused, last = encoder.encode(items)
    assert isinstance(first, Ready) and isinstance(last, Ready)
    assert isinstance(refused, Problem) and refused.number == 2
    assert "I refuse" in refused.sentence
