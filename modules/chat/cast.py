"""`Cast`: who speaks in a chat, by which names, and what the model is told of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modules.chat.character import Character, fill
from modules.chat.characters import Characters
from modules.chat.profiles import NOBODY, Profile, ProfileStore
from modules.chat.store import Mode
from modules.chat.tool_prompt import Tool
from modules.errors import InvalidNameError, NotFoundError

__all__ = ["Cast", "Casting"]

_NAMELESS = "Assistant"


@dataclass(frozen=True, slots=True)
class Cast:
    """The two sides of a chat, and the mode in which the model reads it.

    `context` goes before everything else and is never cut. `character` is the key of a
    character's file; empty without one, and where the file is gone. `tools` are what the reply
    may call.
    """

    mode: Mode = "instruct"
    user: str = NOBODY
    name: str = _NAMELESS
    context: str = ""
    character: str = ""
    tools: tuple[Tool, ...] = ()


class Casting:
    """Finds the cast of a chat in the files of characters and the profiles of users.

    Without `characters` there are none, and without `profiles` everybody is called You.
    """

    def __init__(
        self, characters: Characters | None = None, profiles: ProfileStore | None = None
    ) -> None:
        self._characters = characters
        self._profiles = profiles

    def profile(self, owner: str) -> Profile:
        """Who the owner of a chat is."""
        return self._profiles.of(owner) if self._profiles else Profile()

    def character(self, key: str) -> Character | None:
        """The character `key`, or None where it is gone. Raises SettingsError for a damaged one."""
        try:
            return self._characters.find(key) if self._characters and key else None
        except (NotFoundError, InvalidNameError):
            return None

    def picture(self, key: str) -> Path | None:
        """The picture of a character that is there."""
        return self._characters.picture(key) if self._characters else None

    def cast(self, owner: str, mode: Mode, key: str) -> Cast:
        """The cast of a chat of `owner` with the character `key`.

        A character that is gone keeps its name, and the chat goes on without its context.
        The user's description is for characters and for transcripts. Raises SettingsError.
        """
        profile, character = self.profile(owner), self.character(key)
        name = character.name if character else key or _NAMELESS
        parts = []
        if character:
            parts.append(character.filled_context(profile.name))
        if profile.about and (character or mode != "instruct"):
            parts.append(fill(profile.about, profile.name, name))
        context = "\n\n".join(part for part in parts if part)
        return Cast(mode, profile.name, name, context, key if character else "")
