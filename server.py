"""Start Lantern: `python server.py`, and open the address that it prints; or `launch()`."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from modules.errors import LanternError
from modules.handover import can_restart, start_anew, take
from modules.settings import read_given, read_launch
from modules.ui.building import build_context
from modules.ui.web import Launch, make_server, say

if TYPE_CHECKING:  # imported in the functions below, so that --help answers at once
    import uvicorn
    from fastapi import FastAPI

    from modules.context import AppContext
    from modules.ui.background import Running

__all__ = ["build_app", "build_context", "launch", "main", "make_server"]


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until Ctrl+C. Returns the exit status."""
    try:
        settings, origins = read_launch(argv)
        logging.basicConfig(level=logging.WARNING)
        logging.getLogger("modules").setLevel(logging.INFO if settings.verbose else logging.WARNING)
        settings.paths.prepare()
        begun = Launch(settings, origins, take())
        say("Starting Lantern…")
        server = _server(begun)
    except LanternError as error:
        say(str(error))
        return 2
    if argv is None and can_restart():
        begun.host.offer_restart(partial(setattr, server, "should_exit", True))
    with contextlib.closing(begun), contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=begun.sockets)
    if begun.host.restarting:
        say("Restarting Lantern…")
        start_anew(begun.handover())
        return 1
    return 0


def launch(**settings: Any) -> Running:
    """Serve from a notebook: `launch(model="starter")` returns when the page answers.

    The settings are those of `Settings`; environment and settings.yaml count as for `main`.
    Raises LanternError.
    """
    from modules.ui.background import Running

    chosen, origins = read_given(settings)
    chosen.paths.prepare()
    begun = Launch(chosen, origins)
    try:
        return Running(_server(begun), begun)
    except BaseException:
        begun.close()
        raise


def build_app(ctx: AppContext, started: Callable[[AppContext], None]) -> FastAPI:
    """The page and the API in one application. `started` is called in its event loop."""
    from fastapi import FastAPI

    from modules.access import AccessMiddleware
    from modules.api.pages import build_pages
    from modules.api.router import build_router
    from modules.api.service import api_of
    from modules.ui import models
    from modules.ui.app import mount_page

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        ctx.training.start()
        started(ctx)
        yield
        await ctx.training.close()
        await ctx.jobs.close()
        await ctx.chats.close()
        await ctx.engine.close()

    api = api_of(ctx, partial(models.load, ctx))
    app = FastAPI(lifespan=lifespan, openapi_url=None)
    app.include_router(build_router(api))
    app.include_router(build_pages(api))
    app = mount_page(app, ctx)
    app.add_middleware(AccessMiddleware, access=ctx.access)
    return app


def _server(begun: Launch) -> uvicorn.Server:
    """The server of a launch, over its engine. Raises LanternError."""
    from modules.engine.choice import engine_for

    ctx = build_context(begun.settings, engine_for(begun.settings), begun.access, begun.host)
    server = make_server(build_app(ctx, begun.started), begun.settings)
    begun.host.follow_logs()
    return server


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
