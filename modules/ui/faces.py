"""`Faces`: by which names and pictures the page shows the two sides of a chat."""

from __future__ import annotations

import urllib.parse
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.chat.cast import Casting
from modules.chat.profiles import NOBODY, Profile
from modules.chat.store import Chat, StoredMessage
from modules.errors import LanternError

__all__ = ["Faces", "character_address", "faces_of", "profile_address"]


@dataclass(frozen=True, slots=True)
class Faces:
    """Names, and the addresses of pictures; empty where there are none.

    `key` is the character that the chat was begun with. `problem` says what is wrong with it.
    """

    user: str = NOBODY
    user_picture: str = ""
    key: str = ""
    name: str = ""
    picture: str = ""
    problem: str = ""

    def of(self, message: StoredMessage) -> dict[str, str]:
        """Who a message is by."""
        if message.role == "user":
            return {"name": self.user, "picture": self.user_picture}
        about = message.about
        name = about.get("name") or about.get("model") or "Assistant"
        return {"name": str(name), "picture": self.picture if about.get("character") else ""}

    @property
    def character(self) -> dict[str, Any] | None:
        """The character as the head of a chat shows it."""
        if not self.key:
            return None
        return {"name": self.name, "picture": self.picture, "problem": self.problem}


def faces_of(casting: Casting, chat: Chat) -> Faces:
    """Reads small files. A character that is gone or damaged is a problem, and no error."""
    profile = casting.profile(chat.owner)
    user, picture = profile.name, profile_address(profile)
    if not chat.character:
        return Faces(user, picture)
    try:
        found = casting.character(chat.character)
    except LanternError as error:
        return Faces(user, picture, chat.character, chat.character, problem=str(error))
    if found is None:
        problem = f"The character {chat.character} is gone; replies are written without it."
        return Faces(user, picture, chat.character, chat.character, problem=problem)
    address = character_address(chat.character, casting.picture(chat.character))
    return Faces(user, picture, chat.character, found.name, address)


def character_address(key: str, path: Path | None) -> str:
    """Where a browser finds the picture of a character."""
    try:
        changed = path.stat().st_mtime_ns if path is not None else 0
    except OSError:  # it went this moment
        changed = 0
    # With the time of its last change, because browsers may keep it.
    return f"page/characters/picture?name={urllib.parse.quote(key)}&v={changed}" if changed else ""


def profile_address(profile: Profile) -> str:
    """Where users find their own picture."""
    return f"page/profile/picture?v={zlib.crc32(profile.picture)}" if profile.picture else ""
