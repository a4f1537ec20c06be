"""The web server around the application, and what a launch says in the terminal."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import sys
import threading
import webbrowser
from typing import TYPE_CHECKING

from modules.access import Access, is_loopback
from modules.accounts import Accounts
from modules.address import bind, bind_for_tunnel, check_certificate, other_url, own_url
from modules.settings import Settings

if TYPE_CHECKING:  # imported below, so that --help answers at once
    import uvicorn
    from fastapi import FastAPI

    from modules.context import AppContext

__all__ = ["Launch", "make_access", "make_server", "say"]


def say(text: str) -> None:
    """One line to the terminal, at once, also where output is buffered."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def make_server(app: FastAPI, settings: Settings | None = None) -> uvicorn.Server:
    """A server for `app` that ends within a second of being asked; `run` it."""
    import uvicorn

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # The pages' streams do not end by themselves; that they are cut is no error.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            await super().shutdown(sockets)

    return Server(
        uvicorn.Config(
            app,
            log_level="warning",
            timeout_graceful_shutdown=1,
            # What a proxy tells is looked at by the rules of access alone: uvicorn would take
            # the addresses that anybody on this machine tells for true.
            proxy_headers=False,
            ssl_keyfile=(settings and settings.ssl_keyfile) or None,
            ssl_certfile=(settings and settings.ssl_certfile) or None,
        )
    )


def make_access(settings: Settings) -> Access:
    """The rules of a launch: a fresh token for others than this machine, or the given logins.

    Raises SettingsError.
    """
    accounts = Accounts.read(settings.gradio_auth, settings.gradio_auth_path)
    remote = not is_loopback(settings.host) or settings.share or bool(settings.subpath)
    tokens = remote and not accounts
    return Access(
        token=secrets.token_urlsafe(18) if tokens else "",
        owner_token=secrets.token_urlsafe(18) if tokens and settings.admin_remote else "",
        accounts=accounts,
        admin_remote=settings.admin_remote,
        multi_user=settings.multi_user,
        subpath=settings.subpath,
        # A login opens the page; programs that use the API have a key instead.
        api_token=secrets.token_urlsafe(18) if accounts else "",
    )


class Launch:
    """One launch: its rules, the ports it listens on, and what it says.

    `up` is set when the page answers, and `settled` when the share link has come or failed.
    """

    def __init__(self, settings: Settings) -> None:
        """Take the ports. Raises SettingsError."""
        self.settings = settings
        self.share_url = ""
        self.up, self.settled = threading.Event(), threading.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        check_certificate(settings)
        self.access = make_access(settings)
        self.sockets = [bind(settings)]
        self.port: int = self.sockets[0].getsockname()[1]
        if settings.share:
            self.sockets.append(bind_for_tunnel())
            self.access.public_port = self.sockets[1].getsockname()[1]

    @property
    def url(self) -> str:
        """The page's address on this machine."""
        return own_url(self.settings, self.port)

    def close(self) -> None:
        """Give the ports back."""
        for listener in self.sockets:
            listener.close()
        self.settled.set()

    def started(self, ctx: AppContext) -> None:
        """Begin what runs beside the page. Called in the server's loop, when it serves."""
        from modules.ui import models

        models.begin(ctx)
        self._keep(models.narrate(ctx, say))
        self._announce()
        if self.settings.share:
            self._keep(self._share(ctx))
        else:
            self.settled.set()
        self.up.set()
        if self.settings.auto_launch:
            webbrowser.open(self.url)

    def links(self, url: str) -> tuple[str, str]:
        """The guests' address of the page at `url` and the owner's, which may be empty."""
        access = self.access
        guests = f"{url}/?token={access.token}" if access.token else f"{url}/"
        return guests, f"{url}/?token={access.owner_token}" if access.owner_token else ""

    def _keep(self, work: asyncio._CoroutineLike[None]) -> None:
        self._tasks.add(asyncio.get_running_loop().create_task(work))

    def _announce(self) -> None:
        settings, access = self.settings, self.access
        say(f"Page:  {self.url}")
        if not is_loopback(settings.host):
            self._tell("From other machines", other_url(settings, self.port))
        if settings.subpath:
            self._tell("Behind the proxy", settings.subpath)
        if access.api_token and not settings.api_key and access.remote:
            say(f"API key:  {access.api_token}")

    def _tell(self, what: str, url: str) -> None:
        guests, owner = self.links(url)
        say(f"{what}:  {guests}")
        if owner:
            say(f"{what}, for yourself:  {owner}")

    async def _share(self, ctx: AppContext) -> None:
        """Open the tunnel, and say what came of it; the page goes on however that ends."""
        from modules.ui.tunnel import Tunnel, other_ways

        tunnel = Tunnel(
            self.access.public_port, self.settings.share_server_address, self.settings.user_data_dir
        )
        try:
            job = ctx.jobs.submit("Opening the share link", tunnel.open, kind="share")
            await job.wait()
            if tunnel.url:
                self.share_url = tunnel.url
                self._tell("Share", tunnel.url)
                self.settled.set()
                last = await tunnel.ended() or "the tunnel's program ended"
                self.share_url = ""
                say(f"The share link has ended: {last}. {other_ways(self.port)}")
            elif job.error is not None:
                say(f"No share link: {job.error} {other_ways(self.port)}")
        finally:
            self.settled.set()
            tunnel.close()
