"""`Accounts`: the logins that a launch was given, and the sessions that they began."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules.errors import SettingsError

__all__ = ["Accounts", "key_of"]

_MAX_FILE_BYTES = 64 * 1024
_MAX_NAME_CHARS = 64
_MAX_SESSIONS = 10_000


@dataclass(slots=True)
class Accounts:
    """Names with passwords, of which only keyed digests are kept; false where there are none."""

    _digests: dict[str, bytes] = field(default_factory=dict, repr=False)
    _key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    _sessions: dict[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, passwords: Mapping[str, str], key: bytes = b"") -> Accounts:
        """The accounts of `passwords` by name; with the `key` of earlier ones, comparable."""
        accounts = cls(_key=key) if key else cls()
        for name, password in passwords.items():
            accounts._digests[name] = accounts._digest(password)
        return accounts

    @classmethod
    def read(cls, text: str, file: str, key: bytes = b"") -> Accounts:
        """Those of --gradio-auth, which is `text`, and of --gradio-auth-path, which is `file`.

        Raises SettingsError, which never repeats what was written.
        """
        found = _parsed([text], "--gradio-auth")
        if file:
            for name, password in _parsed(_lines(Path(file)), "--gradio-auth-path").items():
                if name in found:
                    raise _twice(name, "--gradio-auth-path")
                found[name] = password
        return cls.of(found, key)

    def __bool__(self) -> bool:
        return bool(self._digests)

    @property
    def first(self) -> str:
        """The name that was given first."""
        return next(iter(self._digests), "")

    def fits(self, name: str, password: str) -> bool:
        """Whether this is the password of `name`; as slow for a name that does not exist."""
        wanted = self._digests.get(name, self._key)
        return hmac.compare_digest(wanted, self._digest(password)) and name in self._digests

    def begin_session(self, name: str) -> str:
        """A secret that stands for the login from now on; the oldest ones are forgotten."""
        secret = secrets.token_urlsafe(32)
        if len(self._sessions) >= _MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        self._sessions[key_of(secret)] = name
        return secret

    def name_of(self, session: str) -> str:
        """Whose session this is; empty for one that was not begun here."""
        # Looked up by its hash, so that the time it takes says nothing about the secret.
        return self._sessions.get(key_of(session), "")

    def holds(self, key: str) -> bool:
        """Whether the session of this key (see `key_of`) has not ended."""
        return key in self._sessions

    def sessions(self) -> Counter[str]:
        """How many sessions each login has."""
        return Counter(self._sessions.values())

    def end(self, name: str) -> int:
        """End all sessions of a login; returns how many there were."""
        ended = [key for key, whose in self._sessions.items() if whose == name]
        for key in ended:
            del self._sessions[key]
        return len(ended)

    def end_session(self, session: str) -> None:
        """End one session, if it is one."""
        self._sessions.pop(key_of(session), None)

    def passed_on(self) -> dict[str, Any]:
        """What lets the same server, started anew, know those who are logged in."""
        digests = {name: digest.hex() for name, digest in self._digests.items()}
        return {"key": self._key.hex(), "digests": digests, "sessions": dict(self._sessions)}

    def take_over(self, passed: Mapping[str, Any]) -> None:
        """Go on with the sessions of logins whose password is what it was.

        `passed` is from accounts with the same key.
        """
        same = {name for name, digest in passed["digests"].items()
                if self._digests.get(name, b"").hex() == digest}  # fmt: skip
        kept = {key: name for key, name in passed["sessions"].items() if name in same}
        self._sessions.update(kept)

    def _digest(self, password: str) -> bytes:
        return hmac.digest(self._key, password.encode("utf-8", "surrogatepass"), "sha256")


def key_of(secret: str) -> str:
    """What a session or a token is known by, where the secret itself must not stand."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _lines(file: Path) -> list[str]:
    try:
        with file.open("rb") as stream:
            content = stream.read(_MAX_FILE_BYTES + 1)
        if len(content) > _MAX_FILE_BYTES:
            raise SettingsError(f"{file} is larger than 64 KB.", "Write user:password, one a line.")
        lines = content.decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise SettingsError(
            f"{file} cannot be read: {reason.lower()}.", "Check the path after --gradio-auth-path."
        ) from error
    if not any(line.strip(" ,") for line in lines):
        raise SettingsError(f"{file} has no login.", "Write user:password, one a line.")
    return lines


def _parsed(lines: list[str], flag: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in (pair.strip() for line in lines for pair in line.split(",")):
        if not pair:
            continue
        name, _, password = pair.partition(":")
        if not name or not password or len(name) > _MAX_NAME_CHARS or not name.isprintable():
            raise SettingsError(
                f"A login of {flag} is not user:password.",
                f"Give each a name of at most {_MAX_NAME_CHARS} characters and a password, "
                "with commas between logins.",
            )
        if name in found:
            raise _twice(name, flag)
        found[name] = password
    return found


def _twice(name: str, flag: str) -> SettingsError:
    return SettingsError(f"{flag} has the user {name} twice.", "Give each user one password.")
