"""`ProfileStore`: what each user is called in their chats, and how they look."""

from __future__ import annotations

from dataclasses import dataclass

from modules.chat.database import Database, storable
from modules.errors import InvalidInputError

__all__ = ["NOBODY", "Profile", "ProfileStore"]

NOBODY = "You"
"""What a user is called who has given no name."""

_MAX_NAME_CHARS = 100
_MAX_ABOUT_CHARS = 20_000


@dataclass(frozen=True, slots=True)
class Profile:
    """One user. `about` is what characters know of them; `picture` is a WebP."""

    name: str = NOBODY
    about: str = ""
    picture: bytes | None = None


class ProfileStore:
    """The profiles in the file of a `Database`."""

    def __init__(self, store: Database) -> None:
        self._store = store

    def of(self, owner: str) -> Profile:
        """The profile of this owner of chats; the usual one where none was saved."""
        with self._store.reading() as db:
            row = db.execute(
                "SELECT name, about, picture FROM profiles WHERE owner = ?", (owner,)
            ).fetchone()
        return Profile(**dict(row)) if row else Profile()

    def save(self, owner: str, profile: Profile) -> None:
        """Raises InvalidInputError for texts that are too long."""
        name = " ".join(storable(profile.name).split()) or NOBODY
        about = storable(profile.about).strip()
        for text, limit, field in (
            (name, _MAX_NAME_CHARS, "name"),
            (about, _MAX_ABOUT_CHARS, "description"),
        ):
            if len(text) > limit:
                raise InvalidInputError(
                    f"Your {field} is too long.", f"Use at most {limit:,} characters.", field
                )
        with self._store.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO profiles (owner, name, about, picture) VALUES (?, ?, ?, ?)",
                (owner, name, about, profile.picture),
            )
