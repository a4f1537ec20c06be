"""`build_context`: everything that a launch works with, made once."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from modules.settings import Settings

if TYPE_CHECKING:  # imported in the function below, so that --help answers at once
    from modules.access import Access
    from modules.context import AppContext
    from modules.engine.client import EngineClient
    from modules.host import Host

__all__ = ["build_context"]


def build_context(
    settings: Settings, engine: EngineClient, access: Access, host: Host | None = None
) -> AppContext:
    """Everything that the page and the API work with."""
    from modules.chat.attachments import AttachmentStore
    from modules.chat.cast import Casting
    from modules.chat.characters import Characters
    from modules.chat.drafts import DraftStore
    from modules.chat.profiles import ProfileStore
    from modules.chat.service import ChatService
    from modules.chat.store import ChatStore
    from modules.chat.template_choice import TemplateChoices
    from modules.chat.tools.box import EXTENSION, open_tools
    from modules.context import AppContext
    from modules.engine.hook_watch import HookHolder
    from modules.extensions.chat import ExtensionHooks
    from modules.extensions.manager import open_extensions
    from modules.host import host_of
    from modules.jobs import JobManager
    from modules.ui.training_plan import open_queue

    host = host or host_of(settings, access)
    characters = Characters(settings.paths)
    if settings.character:
        characters.find(settings.character)  # said now, and not when the first chat is begun
    store = ChatStore(settings.paths.database)
    store.mark_interrupted_replies()
    AttachmentStore(store).sweep()
    profiles = ProfileStore(store)
    templates = TemplateChoices(settings.templates_yaml)
    extensions = open_extensions(settings, host.origins, engine)
    hooks = ExtensionHooks(extensions)
    if isinstance(engine, HookHolder):
        engine.attach(hooks)
    ctx = AppContext(
        settings=settings,
        access=access,
        jobs=JobManager(),
        engine=engine,
        chats=ChatService(store, engine, templates, Casting(characters, profiles), hooks),
        drafts=DraftStore(store),
        templates=templates,
        characters=characters,
        profiles=profiles,
        training=open_queue(settings, engine),
        host=host,
        extensions=extensions,
    )
    ctx.chats.desk.box = open_tools(settings, partial(ctx.extensions.is_on, EXTENSION))
    return ctx
