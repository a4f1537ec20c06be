"""`TemplateChoices`: which chat template each model is talked to by, and why."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modules.chat.messages import Message
from modules.chat.template import render
from modules.chat.template_library import LIBRARY, gather_evidence, pick
from modules.engine.conversation import TEMPLATE
from modules.engine.protocol import ModelInfo
from modules.errors import InvalidInputError, SettingsError, StorageError, TemplateError
from modules.paths import write_atomically
from modules.wording import nearest
from modules.yaml_files import read_yaml

__all__ = ["SERVERS_OWN", "ChatTemplate", "TemplateChoices", "turn_end"]

SERVERS_OWN = "server"
"""The key where a server elsewhere applies a template that is not known here."""

_QUESTION, _REPLY = "LanternAsks", "LanternAnswers"


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A template in use. `stop` ends replies beside the model's own end token.

    `key` is one of LIBRARY, "own" or SERVERS_OWN; then, `source` writes the messages down for
    that server. `reason` says in a sentence why it is this one.
    """

    key: str
    source: str
    stop: tuple[str, ...]
    reason: str


class TemplateChoices:
    """The templates that a user chose by hand, in `user_data/templates.yaml`.

    A line for each model: the name of its folder, and a key of LIBRARY. Without a path,
    nothing is chosen by hand.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path

    def chosen(self, name: str) -> str:
        """What was chosen for the model `name`, or "". Raises SettingsError."""
        key = self._read().get(name, "")
        if key != "" and not (isinstance(key, str) and key in LIBRARY):
            raise SettingsError(
                f"{name} in templates.yaml is talked to by an unknown template {str(key)[:60]!r}.",
                nearest(str(key), LIBRARY) or f"The templates are {', '.join(LIBRARY)}.",
            )
        return str(key)

    def choose(self, name: str, key: str) -> None:
        """Talk to the model `name` by a template of the library; "" goes back to the best one.

        Raises InvalidInputError, SettingsError or StorageError.
        """
        if key and key not in LIBRARY:
            raise InvalidInputError(
                f"There is no template {key[:60]!r}.", f"Use one of {', '.join(LIBRARY)}."
            )
        entries = self._read()
        if key:
            entries[name] = key
        else:
            entries.pop(name, None)
        self._write(entries)

    def template_of(self, info: ModelInfo) -> ChatTemplate:
        """The template for the model: chosen by hand, its own, or picked by evidence.

        Reads small files. Raises SettingsError.
        """
        if key := self.chosen(info.name):
            chosen = LIBRARY[key]
            return ChatTemplate(key, chosen.source, chosen.stop, "Chosen by hand.")
        if info.server is not None:
            told = f"{info.server.kind} applies the model's own."
            return ChatTemplate(SERVERS_OWN, TEMPLATE, (), told)
        if info.chat_template is not None:
            end = turn_end(info.chat_template, info.special_tokens)
            return ChatTemplate("own", info.chat_template, end, "The model brings its own.")
        picked = pick(gather_evidence(Path(info.path), info.architecture))
        template = picked.template
        return ChatTemplate(template.key, template.source, template.stop, picked.reason)

    def _read(self) -> dict[str, object]:
        return read_yaml(self._path) if self._path is not None and self._path.is_file() else {}

    def _write(self, entries: dict[str, object]) -> None:
        import yaml

        if self._path is None:
            return
        try:
            write_atomically(self._path, yaml.safe_dump(entries, allow_unicode=True))
        except OSError as error:
            raise StorageError(
                f"{self._path.name} cannot be written: {error.strerror}.",
                "Make its folder writable.",
            ) from error


def turn_end(template: str, special_tokens: Mapping[str, str]) -> tuple[str, ...]:
    """The token by which the template ends the assistant's turn, where it looks like one.

    A model was trained to write it, and checkpoints that do not list it among their end
    tokens talk on for the user.
    """
    return _turn_end(template, tuple(sorted(special_tokens.items())))


@functools.lru_cache(maxsize=16)
def _turn_end(template: str, special_tokens: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    chat = [Message("user", _QUESTION), Message("assistant", _REPLY), Message("user", _QUESTION)]
    special = dict(special_tokens)
    try:
        text = render(template, chat, special_tokens=special)
    except TemplateError:  # told when a prompt is made by it
        return ()
    end = re.match(r"\s*(<[^<>\s]{1,40}>)", text.partition(_REPLY)[2])
    return (end[1],) if end and end[1] != special.get("eos_token") else ()
