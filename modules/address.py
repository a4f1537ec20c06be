"""Where Lantern listens, and how that is said."""

from __future__ import annotations

import errno
import socket
import ssl

from modules.errors import SettingsError
from modules.settings import Settings

__all__ = ["bind", "bind_for_tunnel", "check_certificate", "other_url", "own_url"]

_ANY = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound here


def bind(settings: Settings, before: int = 0) -> socket.socket:
    """Take the port. Done before anything slow, so that a taken one is said at once.

    Where the system may choose it, it is that of `before`, if there is one. Raises SettingsError.
    """
    port = settings.listen_port or before
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"Lantern cannot listen on {settings.host}, port {port}: "
            f"{(error.strerror or str(error)).lower()}.",
            "Stop the other program, or try another --listen-port."
            if error.errno == errno.EADDRINUSE
            else "Check --listen-host and --listen-port.",
        ) from error
    return listener


def bind_for_tunnel() -> socket.socket:
    """A port of loopback where a tunnel ends, so that what comes through it can be told apart."""
    return socket.create_server(("127.0.0.1", 0), backlog=128)


def check_certificate(settings: Settings) -> None:
    """Raise SettingsError where --ssl-certfile and --ssl-keyfile cannot be served with."""
    if bool(settings.ssl_keyfile) != bool(settings.ssl_certfile):
        raise SettingsError(
            "--ssl-keyfile and --ssl-certfile belong together.", "Give both of them."
        )
    if not settings.ssl_certfile:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # A key that is encrypted would be asked for in the terminal, where nobody may sit.
        context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile, password=lambda: "")
    except OSError as error:  # ssl's own errors are some, too
        reason = str(error.strerror).lower() if isinstance(error, FileNotFoundError) else (
            "they are no certificate with its key, in PEM and without a password"
        )  # fmt: skip
        raise SettingsError(
            f"{settings.ssl_certfile} and {settings.ssl_keyfile} cannot be used: {reason}.",
            "Check --ssl-certfile and --ssl-keyfile.",
        ) from error


def own_url(settings: Settings, port: int) -> str:
    """The address for this machine."""
    here = "127.0.0.1" if settings.host in _ANY else settings.host
    return f"{_scheme(settings)}://{_bracketed(here)}:{port}"


def other_url(settings: Settings, port: int) -> str:
    """The address for other machines."""
    host = socket.gethostname() if settings.host in _ANY else settings.host
    return f"{_scheme(settings)}://{_bracketed(host)}:{port}"


def _scheme(settings: Settings) -> str:
    return "https" if settings.ssl_certfile else "http"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
