"""`Api`: everything that the routes work with, built once and passed down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from modules.api.keys import Keys
from modules.api.meters import Meters
from modules.chat.template_choice import TemplateChoices
from modules.context import AppContext
from modules.engine.client import EngineClient
from modules.jobs import Job
from modules.loader.options import LoadOptions
from modules.settings import Settings

__all__ = ["Api", "Library", "api_of"]


@dataclass(frozen=True, slots=True)
class Library:
    """What can be loaded.

    `settings` say where models and LoRAs lie; `load` begins the load of a model as a job, and
    raises LanternError for one that cannot be. No options are those of the launch.
    """

    settings: Settings
    load: Callable[[str, LoadOptions | None], Job]


@dataclass(frozen=True, slots=True)
class Api:
    """One running API."""

    engine: EngineClient
    templates: TemplateChoices
    keys: Keys
    library: Library
    meters: Meters = field(default_factory=Meters)


def api_of(ctx: AppContext, load: Callable[[str, LoadOptions | None], Job]) -> Api:
    """The API of a running Lantern.

    Without a key of its own, a token of the page is the key of others than the owner.
    """
    given, access = ctx.settings.api_key, ctx.access
    keys = Keys(
        given,
        ctx.settings.admin_key,
        owner_free=not given,
        page=lambda: access.token or access.api_token,
    )
    return Api(ctx.engine, ctx.templates, keys, Library(ctx.settings, load))
