"""Where Lantern listens, and how that is said."""

from __future__ import annotations

import errno
import socket

from modules.errors import SettingsError
from modules.settings import Settings

__all__ = ["bind", "guest_url"]

_ANY = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound here


def bind(settings: Settings) -> socket.socket:
    """Take the port. Done before anything slow, so that a taken one is said at once.

    Raises SettingsError.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.listen_port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"Lantern cannot listen on {settings.host}, port {settings.listen_port}: "
            f"{(error.strerror or str(error)).lower()}.",
            "Stop the other program, or try another --listen-port."
            if error.errno == errno.EADDRINUSE
            else "Check --listen-host and --listen-port.",
        ) from error
    return listener


def guest_url(settings: Settings, port: int, token: str) -> str:
    """The address for other machines, with the token in it."""
    host = socket.gethostname() if settings.host in _ANY else settings.host
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/?token={token}"
