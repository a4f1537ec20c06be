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
from modules.settings import Settings, load_settings, settings_of
from modules.ui.web import Launch, make_server, say

if TYPE_CHECKING:  # imported in the functions below, so that --help answers at once
    import uvicorn
    from fastapi import FastAPI

    from modules.access import Access
    from modules.context import AppContext
    from modules.engine.client import EngineClient
    from modules.ui.background import Running

__all__ = ["build_app", "build_context", "launch", "main", "make_server"]


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until Ctrl+C. Returns the exit status."""
    try:
        settings = load_settings(argv)
        logging.basicConfig(level=logging.WARNING)
        logging.getLogger("modules").setLevel(logging.INFO if settings.verbose else logging.WARNING)
        settings.paths.prepare()
        begun = Launch(settings)
        say("Starting Lantern…")
        server = _server(begun)
    except LanternError as error:
        say(str(error))
        return 2
    with contextlib.closing(begun), contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=begun.sockets)
    return 0


def launch(**settings: Any) -> Running:
    """Serve from a notebook: `launch(model="starter")` returns when the page answers.

    The settings are those of `Settings`; environment and settings.yaml count as for `main`.
    Raises LanternError.
    """
    from modules.ui.background import Running

    chosen = settings_of(settings)
    chosen.paths.prepare()
    begun = Launch(chosen)
    try:
        return Running(_server(begun), begun)
    except BaseException:
        begun.close()
        raise


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
    """The server of a launch, over a local engine. Raises LanternError."""
    from modules.engine.local import LocalEngine

    ctx = build_context(begun.settings, LocalEngine(), begun.access)
    return make_server(build_app(ctx, begun.started), begun.settings)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
