"""`AppContext`: everything that a page or a route may use, built once and passed down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from modules.jobs import JobManager
from modules.settings import Settings

if TYPE_CHECKING:  # the context names these types; the rooms above it build them
    from modules.access import Access
    from modules.chat.characters import Characters
    from modules.chat.drafts import DraftStore
    from modules.chat.profiles import ProfileStore
    from modules.chat.service import ChatService
    from modules.chat.template_choice import TemplateChoices
    from modules.engine.client import EngineClient
    from modules.extensions.manager import ExtensionManager
    from modules.host import Host
    from modules.training.queue import TrainingQueue

__all__ = ["AppContext"]


@dataclass(frozen=True, slots=True)
class AppContext:
    """One running Lantern."""

    settings: Settings
    access: Access
    jobs: JobManager
    engine: EngineClient
    chats: ChatService
    drafts: DraftStore
    templates: TemplateChoices
    characters: Characters
    profiles: ProfileStore
    training: TrainingQueue
    host: Host
    extensions: ExtensionManager
