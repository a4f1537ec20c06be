"""Start Lantern: `python server.py`, and open the address that it prints."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import webbrowser
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING

from modules.address import bind, guest_url
from modules.errors import LanternError
from modules.settings import Settings, load_settings
from modules.ui.web import make_server

if TYPE_CHECKING:  # imported in the functions below, so that --help answers at once
    from fastapi import FastAPI

    from modules.access import Access
    from modules.context import AppContext
    from modules.engine.client import EngineClient

__all__ = ["build_app", "build_context", "main", "make_server"]


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until Ctrl+C. Returns the exit status."""
    try:
        settings = load_settings(argv)
        logging.basicConfig(level=logging.WARNING)
        logging.getLogger("modules").setLevel(logging.INFO if settings.verbose else logging.WARNING)
        settings.paths.prepare()
        listener = bind(settings)
    except LanternError as error:
        say(str(error))
        return 2
    say("Starting Lantern…")
    with listener:
        return _serve(settings, listener)


def say(text: str) -> None:
    """One line to the terminal, at once, also where output is buffered."""
    print(text, flush=True)


def build_context(settings: Settings, engine: EngineClient, access: Access) -> AppContext:
    """Everything that the page and the API work with."""
    from modules.chat.attachments import AttachmentStore
    from modules.chat.cast import Casting
    from modules.chat.characters import Characters
    from modules.chat.drafts import DraftStore
    from modules.chat.profiles import ProfileStore
    from modules.chat.service import ChatService
    from modules.chat.store import ChatStore
    from modules.chat.template_choice import TemplateChoices
    from modules.context import AppContext
    from modules.jobs import JobManager
    from modules.ui.training_plan import open_queue

    characters = Characters(settings.paths)
    if settings.character:
        characters.find(settings.character)  # said now, and not when the first chat is begun
    store = ChatStore(settings.paths.database)
    store.mark_interrupted_replies()
    AttachmentStore(store).sweep()
    profiles = ProfileStore(store)
    templates = TemplateChoices(settings.templates_yaml)
    return AppContext(
        settings=settings,
        access=access,
        jobs=JobManager(),
        engine=engine,
        chats=ChatService(store, engine, templates, Casting(characters, profiles)),
        drafts=DraftStore(store),
        templates=templates,
        characters=characters,
        profiles=profiles,
        training=open_queue(settings, engine),
    )


def build_app(ctx: AppContext, started: Callable[[AppContext], None]) -> FastAPI:
    """The page and the API in one application. `started` is called in its event loop."""
    from fastapi import FastAPI

    from modules.access import AccessMiddleware
    from modules.api.router import build_router
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

    app = FastAPI(title="Lantern", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.include_router(
        build_router(ctx.engine, ctx.settings.api_key or ctx.access.token, ctx.templates)
    )
    app = mount_page(app, ctx)
    app.add_middleware(AccessMiddleware, access=ctx.access)
    return app


def _serve(settings: Settings, listener: socket.socket) -> int:
    from modules.access import Access
    from modules.engine.local import LocalEngine
    from modules.ui import models

    access = Access.for_host(settings.host)
    try:
        ctx = build_context(settings, LocalEngine(), access)
    except LanternError as error:
        say(str(error))
        return 2
    narrating: set[asyncio.Task[None]] = set()

    def started(ctx: AppContext) -> None:
        models.begin(ctx)
        narrating.add(asyncio.get_running_loop().create_task(models.narrate(ctx, say)))
        _announce(settings, listener.getsockname()[1], access)

    with contextlib.suppress(KeyboardInterrupt):
        make_server(build_app(ctx, started)).run(sockets=[listener])
    return 0


def _announce(settings: Settings, port: int, access: Access) -> None:
    """Say where the page is, and open it if that was asked for."""
    here = f"http://127.0.0.1:{port}"
    say(f"Page:  {here}")
    if access.token:
        say(f"From other machines:  {guest_url(settings, port, access.token)}")
    if settings.auto_launch:
        webbrowser.open(here)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
