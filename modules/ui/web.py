"""The web server around the application, and what a launch says in the terminal."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import threading
import webbrowser
from typing import TYPE_CHECKING

from modules.access import Access, is_loopback, new_token
from modules.accounts import Accounts
from modules.address import bind, bind_for_tunnel, check_certificate, other_url, own_url
from modules.handover import Handover, fingerprint
from modules.host import TERMINAL, host_of
from modules.settings import Origins, Settings

if TYPE_CHECKING:  # imported below, so that --help answers at once
    import uvicorn
    from fastapi import FastAPI

    from modules.context import AppContext

__all__ = ["Launch", "links", "make_access", "make_server", "say"]


_terminal = logging.getLogger(TERMINAL)
_terminal.addHandler(logging.NullHandler())
_terminal.setLevel(logging.INFO)
_terminal.propagate = False  # it stands in the terminal already


def say(text: str) -> None:
    """One line to the terminal, at once, also where output is buffered."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
    _terminal.info("%s", text)


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


def make_access(settings: Settings, taken: Handover | None = None) -> Access:
    """The rules of a launch: a fresh token for others than this machine, or the given logins.

    Tokens and sessions that a server before this one handed over stay good. Raises SettingsError.
    """
    taken = taken or Handover()
    key = bytes.fromhex(taken.accounts["key"]) if taken.accounts else b""
    accounts = Accounts.read(settings.gradio_auth, settings.gradio_auth_path, key)
    if taken.accounts:
        accounts.take_over(taken.accounts)
    remote = not is_loopback(settings.host) or settings.share or bool(settings.subpath)
    tokens = remote and not accounts
    owners = tokens and settings.admin_remote
    return Access(
        token=(taken.token or new_token()) if tokens else "",
        owner_token=(taken.owner_token or new_token()) if owners else "",
        accounts=accounts,
        admin_remote=settings.admin_remote,
        multi_user=settings.multi_user,
        subpath=settings.subpath,
        # A login opens the page; programs that use the API have a key instead.
        api_token=(taken.api_token or new_token()) if accounts else "",
    )


def links(access: Access, url: str) -> tuple[str, str]:
    """The guests' address of the page at `url` and the owner's, which may be empty."""
    guests = f"{url}/?token={access.token}" if access.token else f"{url}/"
    return guests, f"{url}/?token={access.owner_token}" if access.owner_token else ""


class Launch:
    """One launch: its rules, the ports it listens on, and what it says.

    `up` is set when the page answers, and `settled` when the share link has come or failed.
    """

    def __init__(
        self,
        settings: Settings,
        origins: Origins | None = None,
        taken: Handover | None = None,
    ) -> None:
        """Take the ports, and what a server before this one handed over. Raises SettingsError."""
        self.settings = settings
        self.share_url = ""
        self._taken = taken
        self.up, self.settled = threading.Event(), threading.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        check_certificate(settings)
        self.access = make_access(settings, taken)
        self.host = host_of(settings, self.access, origins)
        self.sockets = [bind(settings, taken.port if taken else 0)]
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
        self.host.log.close()
        self.settled.set()

    def handover(self) -> Handover:
        """What the next server must know to go on where this one ended."""
        return Handover(
            port=0 if self.settings.listen_port else self.port,
            token=self.access.token,
            owner_token=self.access.owner_token,
            api_token=self.access.api_token,
            accounts=self.access.accounts.passed_on(),
            chosen=self.settings.model,
            settings=fingerprint(self.settings),
            loaded=self.host.loaded,
        )

    def started(self, ctx: AppContext) -> None:
        """Begin what runs beside the page. Called in the server's loop, when it serves."""
        from modules.ui import models, resume

        if self._taken is None:
            models.begin(ctx)
        else:
            resume.go_on(ctx, self._taken)
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
        return links(self.access, url)

    def _keep(self, work: asyncio._CoroutineLike[None]) -> None:
        self._tasks.add(asyncio.get_running_loop().create_task(work))

    def _announce(self) -> None:
        settings, access = self.settings, self.access
        say(f"Page:  {self.url}")
        self.host.addresses["On this machine"] = self.url
        if not is_loopback(settings.host):
            self._tell("From other machines", other_url(settings, self.port))
        if settings.subpath:
            self._tell("Behind the proxy", settings.subpath)
        if access.api_token and not settings.api_key and access.remote:
            say(f"API key:  {access.api_token}")

    def _tell(self, what: str, url: str) -> None:
        self.host.addresses[what] = url
        guests, owner = self.links(url)
        say(f"{what}:  {guests}")
        if owner:
            say(f"{what}, for yourself:  {owner}")

    async def _share(self, ctx: AppContext) -> None:
        """Open the tunnel, and say what came of it; the page goes on however that ends."""
        from modules.ui.tunnel import Tunnel, other_ways

        share = self.host.share
        share.state = "opening"
        tunnel = Tunnel(
            self.access.public_port, self.settings.share_server_address, self.settings.user_data_dir
        )
        try:
            job = ctx.jobs.submit("Opening the share link", tunnel.open, kind="share")
            await job.wait()
            if tunnel.url:
                self.share_url = share.url = tunnel.url
                share.state = "open"
                self._tell("Share", tunnel.url)
                self.settled.set()
                last = await tunnel.ended() or "the tunnel's program ended"
                self.share_url = share.url = ""
                self.host.addresses.pop("Share", None)
                share.state, share.told = "ended", f"The share link has ended: {last}."
                say(f"{share.told} {other_ways(self.port)}")
            elif job.error is not None:
                share.state, share.told = "failed", str(job.error)
                say(f"No share link: {job.error} {other_ways(self.port)}")
        finally:
            self.settled.set()
            tunnel.close()
