"""`Redactor`: text that leaves the machine, without what nobody else may know."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = ["HIDDEN", "Redactor", "passwords_in"]

HIDDEN = "•••"

_LONG = 6
"""Shorter secrets are only replaced where they stand alone: "abc" is part of many words."""

_PATTERNS = (
    # token=…, api_key: …, "password": "…", --admin-key …, also within an address. A value is not
    # only a number: "max_new_tokens=200" and "1,024 tokens" tell nothing.
    re.compile(
        r"(?i)((?<![A-Za-z])(?:[a-z]+[_-])?(?:token|api[_-]?key|admin[_-]?key|key|secret|passw(?:or)?d)"
        r"[\"']?\s*[=:]\s*[\"']?)(?![0-9.]+\b)[^\s\"'&,;<>]{4,}"
    ),
    re.compile(r"(?i)(--(?:api-key|admin-key|gradio-auth)[= ]+)[^\s-]\S*"),
    re.compile(r"(?i)(\bAPI key:\s+)\S+"),
    re.compile(r"(?i)(\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}"),
    re.compile(r"(\bhttps?://)[^\s/@:]+:[^\s/@]+(?=@)"),
    re.compile(r"(\b(?:hf|sk|ghp|gho|pypi)[_-])[A-Za-z0-9_-]{8,}"),
    re.compile(r"(?i)(\bset-cookie:\s*\w+=|\blantern_\w+=)[^\s;,\"']{6,}"),
)
_HOMES = re.compile(r"(?:/home/|/Users/|[A-Za-z]:\\Users\\)[^/\\\s:\"']+")


class Redactor:
    """Called with a text, gives it back without secrets and without the user's own name.

    `secrets` is asked each time, because tokens are renewed while a server runs.
    """

    def __init__(
        self, secrets: Callable[[], Iterable[str]] = tuple, home: Path | None = None
    ) -> None:
        self._secrets = secrets
        self._home = str(home or Path.home())

    def __call__(self, text: str) -> str:
        """`text` with every secret that is known, or looks like one, replaced by `HIDDEN`."""
        for secret in sorted({one for one in self._secrets() if one}, key=len, reverse=True):
            if len(secret) >= _LONG:
                text = text.replace(secret, HIDDEN)
            else:
                text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, text)
        for pattern in _PATTERNS:
            text = pattern.sub(rf"\g<1>{HIDDEN}", text)
        if len(self._home) > 1:
            text = re.sub(rf"{re.escape(self._home)}(?=[/\\\s:\"',)]|$)", "~", text)
        return _HOMES.sub("~", text)


def passwords_in(logins: str) -> list[str]:
    """The passwords of `user:password,user2:password2`."""
    return [pair.partition(":")[2].strip() for pair in logins.split(",") if ":" in pair]
