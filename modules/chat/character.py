"""`Character`: whom a model plays, in whatever form it was written down."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from modules.errors import InvalidInputError

__all__ = ["KEYS", "Character", "character_from", "fill"]

MAX_NAME_CHARS = 100
_MAX_GREETINGS = 100

# What text-generation-webui, Pygmalion and the cards of TavernAI (V1 to V3) call the same thing.
_NAME = ("name", "char_name", "bot")
_GREETING = ("greeting", "char_greeting", "first_mes")
_DIALOGUE = ("example_dialogue", "mes_example")
_SCENARIO = ("scenario", "world_scenario")
_OTHERS = ("context", "system_prompt", "char_persona", "description", "personality")
KEYS = frozenset({*_NAME, *_GREETING, *_DIALOGUE, *_SCENARIO, *_OTHERS, "alternate_greetings"})
"""Every key that says something about a character."""

_PLACEHOLDER = re.compile(r"(?i:\{\{(user|char|original)\}\})|<(USER|BOT)>")
_START = re.compile(r"^\s*<START>\s*$", re.MULTILINE | re.IGNORECASE)
_CONTROL = {code: None for code in range(32) if chr(code) not in "\n\t"}


@dataclass(frozen=True, slots=True)
class Character:
    """Texts as they were written, with `{{user}}` and `{{char}}` in them.

    `alternate_greetings` are other beginnings of a chat than `greeting`.
    """

    name: str
    greeting: str = ""
    context: str = ""
    example_dialogue: str = ""
    alternate_greetings: tuple[str, ...] = ()

    @property
    def greetings(self) -> tuple[str, ...]:
        """All beginnings of a chat, the usual one first."""
        return tuple(text for text in (self.greeting, *self.alternate_greetings) if text)

    def filled_context(self, user: str) -> str:
        """What the model is told of the character, with `user` as the name of the other side."""
        dialogue = _START.sub("", self.example_dialogue).strip()
        parts = (self.context.strip(), dialogue)
        return "\n".join(fill(part, user, self.name) for part in parts if part)

    def as_mapping(self) -> dict[str, Any]:
        """What a file says of it: nothing that is empty."""
        found = asdict(self) | {"alternate_greetings": list(self.alternate_greetings)}
        return {key: value for key, value in found.items() if value}


def fill(text: str, user: str, char: str) -> str:
    """`text` with names for `{{user}}`, `{{char}}`, `<USER>` and `<BOT>`, in one pass.

    `{{original}}` in a card stands for the program's own system message; that of the chat
    follows the context by itself, so it is left out.
    """
    names = {"user": user, "char": char, "bot": char, "original": ""}
    return _PLACEHOLDER.sub(lambda found: names[(found[1] or found[2]).lower()], text)


def character_from(
    data: Mapping[Any, object], fallback: str = ""
) -> tuple[Character, tuple[str, ...]]:
    """The character in `data`, called `fallback` where it has no name, and the keys not used.

    Takes text-generation-webui's keys, Pygmalion's, and those of TavernAI's cards. Raises
    InvalidInputError that names the key.
    """
    if isinstance(data.get("spec"), str) and isinstance(card := data.get("data"), Mapping):
        data = card
    name = " ".join(_first(data, _NAME).split()) or fallback
    if not name or len(name) > MAX_NAME_CHARS:
        raise InvalidInputError(
            "The character has no name." if not name else "The character's name is too long.",
            f"Give it a `name` of at most {MAX_NAME_CHARS} characters.",
            field="name",
        )
    character = Character(
        name,
        _first(data, _GREETING),
        _context(data, name),
        _first(data, _DIALOGUE),
        _greetings(data.get("alternate_greetings")),
    )
    unused = (str(key)[:60] for key, value in data.items() if key not in KEYS and value)
    return character, tuple(unused)


def _context(data: Mapping[Any, object], name: str) -> str:
    persona, description = _text(data, "char_persona"), _text(data, "description")
    personality, scenario = _text(data, "personality"), _first(data, _SCENARIO)
    parts = (
        _text(data, "system_prompt"),
        _text(data, "context"),
        f"{name}'s Persona: {persona}" if persona else description,
        f"{name}'s personality: {personality}" if personality else "",
        f"Scenario: {scenario}" if scenario else "",
    )
    return "\n".join(part for part in parts if part)


def _greetings(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > _MAX_GREETINGS:
        raise InvalidInputError(
            "alternate_greetings is no list of greetings.",
            f"Write at most {_MAX_GREETINGS} texts, each with a dash before it.",
            field="alternate_greetings",
        )
    texts = (_text({"alternate_greetings": one}, "alternate_greetings") for one in value)
    return tuple(text for text in texts if text)


def _first(data: Mapping[Any, object], keys: tuple[str, ...]) -> str:
    return next((text for key in keys if (text := _text(data, key))), "")


def _text(data: Mapping[Any, object], key: str) -> str:
    value = data.get(key)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InvalidInputError(
            f"{key} is no text.", f"Write `{key}: text`, or leave it out.", field=key
        )
    text = str(value).replace("\r\n", "\n").translate(_CONTROL)
    return text.encode("utf-8", "replace").decode("utf-8").strip()
