"""`Handover`: what a server that starts itself anew tells its successor.

The process stays and its program is begun once more (`exec`), so that the terminal keeps it. What
it tells goes through an open file, and not through the environment, where other programs of the
same user could read it for as long as the successor runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from modules.settings import Settings

__all__ = ["Handover", "LoadedModel", "can_restart", "fingerprint", "start_anew", "take"]

log = logging.getLogger(__name__)

_VARIABLE = "LANTERN_HANDOVER_FD"
_MAX_BYTES = 4 * 2**20
_MAX_PIPE_BYTES = 60_000


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model as it was loaded: its folder, its options by name, LoRAs as (name, path, weight)."""

    path: str
    options: Mapping[str, Any] = field(default_factory=dict)
    adapters: tuple[tuple[str, str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Handover:
    """Tokens and logins stay good, the port stays the same, and the model is loaded again.

    `chosen` is the --model of that launch, and `settings` a fingerprint of all of them: where
    they changed, the new ones decide. Without `loaded`, nothing was. `port` is that which the
    system had chosen.
    """

    port: int = 0
    token: str = ""
    owner_token: str = ""
    api_token: str = ""
    accounts: Mapping[str, Any] = field(default_factory=dict)
    chosen: str = ""
    settings: str = ""
    loaded: LoadedModel | None = None


def can_restart() -> bool:
    """Whether this system lets a process begin its program once more, in the same terminal."""
    return os.name == "posix" and bool(sys.executable) and len(sys.orig_argv) > 1


def fingerprint(settings: Settings) -> str:
    """A short text that differs where any setting does, and tells none."""
    return hashlib.sha256(repr(settings).encode()).hexdigest()


def start_anew(handover: Handover, environment: MutableMapping[str, str] | None = None) -> None:
    """Begin this program once more, with the same flags. Returns only where that fails."""
    environment = os.environ if environment is None else environment
    # A file that has no name, where there is one: a pipe holds 64 KB until somebody reads it.
    nameless = hasattr(os, "memfd_create")
    text = json.dumps(dataclasses.asdict(handover)).encode()
    if len(text) > (
        _MAX_BYTES if nameless else _MAX_PIPE_BYTES
    ):  # many sessions: they log in again
        text = json.dumps(dataclasses.asdict(dataclasses.replace(handover, accounts={}))).encode()
    if nameless:
        end = os.memfd_create("lantern-handover", 0)
        os.write(end, text)
        os.lseek(end, 0, os.SEEK_SET)
    else:
        end, begin = os.pipe()
        os.write(begin, text)
        os.close(begin)
    os.set_inheritable(end, True)
    environment[_VARIABLE] = str(end)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    try:
        os.execve(  # noqa: S606 - our own program, with the flags that it was started with
            sys.executable, [sys.executable, *sys.orig_argv[1:]], dict(environment)
        )
    except OSError as error:
        log.error("Lantern could not start itself anew: %s. Start it again.", error.strerror)


def take(environment: MutableMapping[str, str] | None = None) -> Handover | None:
    """What a predecessor told, once; None for a launch that has none."""
    environment = os.environ if environment is None else environment
    text = environment.pop(_VARIABLE, "")
    if not text.isdecimal():
        return None
    try:
        with os.fdopen(int(text), "rb") as stream:
            told = json.loads(stream.read(_MAX_BYTES))
        loaded = told.pop("loaded")
        if loaded:
            adapters = tuple((name, path, weight) for name, path, weight in loaded["adapters"])
            loaded = LoadedModel(loaded["path"], loaded["options"], adapters)
        return Handover(**told, loaded=loaded)
    except (OSError, ValueError, TypeError, KeyError):
        log.warning("What the server before this one told could not be read.")
        return None
