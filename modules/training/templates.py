"""Which chat template a config means, as something that renders many rows quickly."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.chat.messages import Message
from modules.chat.sandbox import Program
from modules.chat.template import render
from modules.chat.template_choice import turn_end
from modules.chat.template_library import LIBRARY, gather_evidence, pick
from modules.errors import InvalidInputError
from modules.loader.json_files import read_object
from modules.training.config import TrainingConfig
from modules.training.masking import Marked
from modules.training.tokenizer import FileTokenizer
from modules.wording import nearest

__all__ = ["ChatFormat", "chat_format"]

_QUESTION, _REPLY = "LanternAsks", "LanternAnswers"


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """How conversations become text.

    `key` is one of LIBRARY, or "own"; `reason` says in a sentence why it is this one. `render`
    makes the text of a conversation, and `ask` the one that a reply is to follow; both are for
    one thread at a time. `ends` are the tokens that end a turn, and `marks` the texts. `closing`
    stands after the last reply where the template itself puts no such token there.
    """

    key: str
    reason: str
    ends: frozenset[int]
    render: Callable[[Sequence[Message]], str]
    ask: Callable[[Sequence[Message]], str]
    closing: str = ""
    marks: tuple[str, ...] = ()

    def with_ends(self, marked: Marked) -> Marked:
        """The same, with what ends a turn learnt after each stretch where it stands.

        Where the tokenizer knows a mark as one token, the loss mask finds it by its id; written
        out in several, it must be learnt as well, because the chat stops at its text.
        """
        if not self.marks:
            return marked
        learnt = tuple((a, self._behind_mark(marked.text, b)) for a, b in marked.learnt)
        return Marked(marked.text, learnt)

    def _behind_mark(self, text: str, end: int) -> int:
        at = end
        while text[at : at + 1].isspace():
            at += 1
        return next((at + len(m) for m in self.marks if text.startswith(m, at)), end)


def chat_format(config: TrainingConfig, tokenizer: FileTokenizer, folder: Path) -> ChatFormat:
    """The format that `config.template` names: a key of LIBRARY, or nothing for the model's own.

    A model without one gets what the chat would pick for it. Raises InvalidInputError for a
    key that is unknown, and TemplateError for a template that is damaged.
    """
    key, source, reason = _choice(config.template, tokenizer, folder)
    program = Program(source)
    special = tokenizer.special_tokens

    def filled(messages: Sequence[Message]) -> str:
        return render(program, messages, special_tokens=special, add_generation_prompt=False)

    def asked(messages: Sequence[Message]) -> str:
        return render(program, messages, special_tokens=special)

    marks = turn_end(source, special)
    known = {tokenizer.id_of(mark) for mark in marks}
    ends = tokenizer.end_ids | {i for i in known if i is not None}
    plain = ChatFormat(key, reason, ends, filled, asked, marks=marks)
    eos = special.get("eos_token", "")
    if not config.add_eos or not eos or _is_closed(plain, tokenizer):
        return plain
    return dataclasses.replace(
        plain, closing=eos, render=lambda messages: filled(messages).rstrip("\n ") + eos
    )


def _choice(key: str, tokenizer: FileTokenizer, folder: Path) -> tuple[str, str, str]:
    if key in LIBRARY:
        return key, LIBRARY[key].source, "Chosen by hand."
    if key not in ("", "own"):
        raise InvalidInputError(
            f"There is no chat template {key[:60]!r}.",
            nearest(key, LIBRARY) or f"The templates are {', '.join(LIBRARY)}.",
            "template",
        )
    if tokenizer.chat_template is not None:
        return "own", tokenizer.chat_template, "The model brings its own."
    picked = pick(gather_evidence(folder, _architecture(folder)))
    return picked.template.key, picked.template.source, picked.reason


def _architecture(folder: Path) -> str:
    file = folder / "config.json"
    named = read_object(file).get("architectures") if file.is_file() else None
    return str(named[0]) if isinstance(named, list) and named else ""


def _is_closed(chat: ChatFormat, tokenizer: FileTokenizer) -> bool:
    """Whether the template ends a reply with a token by which the model stops."""
    text = chat.render([Message("user", _QUESTION), Message("assistant", _REPLY)])
    after = text.rpartition(_REPLY)[2].strip()
    ids, _ = tokenizer.encode(after)
    return bool(ids) and ids[0] in chat.ends
