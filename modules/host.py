"""`Host`: the process that serves, as its owner looks at it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Literal

from modules.access import Access
from modules.errors import LanternError
from modules.handover import LoadedModel
from modules.log_tail import LogTail
from modules.redact import Redactor, passwords_in
from modules.settings import Origins, Settings
from modules.signals import Signal
from modules.visitors import Visitors

__all__ = ["BY_HAND", "TERMINAL", "Host", "ShareLink", "host_of"]

TERMINAL = "lantern.terminal"
"""The logger of what is said in the terminal."""

BY_HAND = "In a notebook, run stop() and launch() again; elsewhere, end it and start it again."
"""How to restart what cannot do so by itself."""

_SAID = (TERMINAL, "", "uvicorn", "uvicorn.access")
"""uvicorn's loggers pass nothing on to that of all."""


@dataclass(slots=True)
class ShareLink:
    """The public link. `told` says what came of it, where it is not open."""

    state: Literal["off", "opening", "open", "failed", "ended"] = "off"
    url: str = ""
    told: str = ""


@dataclass(slots=True)
class Host:
    """One process. `addresses` are those of the page, by what they are for, without tokens.

    `boot` differs from process to process, so that a tab knows a new one. Belongs to one event
    loop, but for `log`.
    """

    origins: Origins
    redact: Redactor
    log: LogTail
    visitors: Visitors = field(default_factory=Visitors)
    addresses: dict[str, str] = field(default_factory=dict)
    share: ShareLink = field(default_factory=ShareLink)
    boot: str = field(default_factory=lambda: secrets.token_hex(6))
    started_at: float = field(default_factory=time.time)
    restarting: bool = False
    loaded: LoadedModel | None = None
    ending: Signal = field(default_factory=Signal)
    _stop: Callable[[], None] | None = None

    @property
    def can_restart(self) -> bool:
        """Whether `restart` does so: a program in a terminal does, a notebook's launch does not."""
        return self._stop is not None

    def offer_restart(self, stop: Callable[[], None]) -> None:
        """Have `stop` end the server, whose program then begins anew where `restarting` is set."""
        self._stop = stop

    def restart(self, loaded: LoadedModel | None = None) -> None:
        """End the server, to begin anew, and to load what was. Raises LanternError."""
        if self._stop is None:
            raise LanternError("This Lantern cannot restart itself.", BY_HAND)
        self.restarting, self.loaded = True, loaded
        self.ending.notify()
        self._stop()

    def follow_logs(self) -> None:
        """Keep what is logged and said from now on. Call it when uvicorn has its loggers."""
        self.log.follow(_SAID)


def host_of(settings: Settings, access: Access, origins: Origins | None = None) -> Host:
    """The host of a launch, whose log hides what the launch was told in secret."""

    hidden = [getattr(settings, one.name) for one in fields(settings) if one.metadata.get("secret")]

    def known() -> list[str]:
        tokens = [access.token, access.owner_token, access.api_token]
        return [*tokens, *hidden, *passwords_in(settings.gradio_auth)]

    redact = Redactor(known)
    return Host(origins or Origins(), redact, LogTail(redact))
