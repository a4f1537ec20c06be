"""`ServerAddress`: where a server is, and by what it lets one in."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit, urlunsplit

from modules.errors import SettingsError

__all__ = ["ServerAddress"]

_LOOPBACK = ("localhost", "127.", "::1")


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """`base` is the address of the API (…/v1), `root` that of the server, neither with a login.

    `host` is what a user is shown. `key`, or `login` (user and password), opens it; no
    representation of an address has them.
    """

    base: str
    root: str
    host: str
    key: str = dataclasses.field(default="", repr=False)
    login: tuple[str, str] | None = dataclasses.field(default=None, repr=False)

    @classmethod
    def of(cls, url: str, key: str = "") -> ServerAddress:
        """The address of `--api-base`, with or without its /v1. Raises SettingsError."""
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError as error:
            raise SettingsError(
                "--api-base has no port that can be.", "Use a number from 1 to 65535."
            ) from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsError(
                "--api-base is no address by http or https.",
                "Write it like http://127.0.0.1:8000/v1.",
            )
        login = None
        if parts.username is not None:
            login = (unquote(parts.username), unquote(parts.password or ""))
        if login and key:
            raise SettingsError(
                "--api-base has a login in it, and --api-base-key was given.", "Give one of them."
            )
        name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        host = f"{name}:{port}" if port else name
        path = parts.path.rstrip("/") or "/v1"
        root = path.removesuffix("/v1")
        return cls(
            urlunsplit((parts.scheme, host, path, "", "")),
            urlunsplit((parts.scheme, host, root, "", "")),
            host,
            key,
            login,
        )

    @property
    def is_loopback(self) -> bool:
        """Whether it is on this machine, where no proxy is in between."""
        return self.host.lstrip("[").startswith(_LOOPBACK)

    def hide(self, text: str) -> str:
        """`text` without what opens the server, which some repeat in their refusals."""
        secrets = [self.key, *(self.login or ())[1:]]
        for secret in secrets:
            text = text.replace(secret, "***") if secret else text
        return text
