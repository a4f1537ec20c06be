"""The web server around the application: it ends at once, and without noise."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported below, so that --help answers at once
    import uvicorn
    from fastapi import FastAPI

__all__ = ["make_server"]


def make_server(app: FastAPI) -> uvicorn.Server:
    """A server for `app` that ends within a second of being asked; `run` it."""
    import uvicorn

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # The pages' streams do not end by themselves; that they are cut is no error.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            await super().shutdown(sockets)

    return Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
