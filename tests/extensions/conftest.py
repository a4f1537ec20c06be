"""Extensions of a test, and chats that they take part in."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modules.chat.cast import Casting
from modules.chat.service import ChatService
from modules.chat.store import ChatStore
from modules.chat.template_choice import TemplateChoices
from modules.engine.fake import FakeEngine
from modules.extensions.calls import Deadlines
from modules.extensions.chat import ExtensionHooks
from modules.extensions.chosen import Chosen
from modules.extensions.manager import ExtensionManager
from modules.extensions.webui import HookHost
from modules.settings import Settings

SHIPPED = Path(__file__).parents[2] / "extensions"

Write = Callable[..., None]
Manage = Callable[..., ExtensionManager]
Chats = Callable[[ExtensionManager], ChatService]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write the script of an extension."""

    def write(name: str, source: str) -> None:
        folder = tmp_path / "extensions" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "script.py").write_text(textwrap.dedent(source), "utf-8")

    return write


@pytest.fixture
def manage(tmp_path: Path, settings: Settings, engine: FakeEngine) -> Manage:
    """A manager with these extensions on, whose hooks may take `seconds`."""

    return _managing(tmp_path / "extensions", HookHost(engine, settings))


@pytest.fixture
def manage_shipped(settings: Settings, engine: FakeEngine) -> Manage:
    """The same with the extensions that come with Lantern."""
    return _managing(SHIPPED, HookHost(engine, settings))


def _managing(folder: Path, host: HookHost) -> Manage:
    def manage(*names: str, seconds: float = 5.0, **params: dict[str, object]) -> ExtensionManager:
        manager = ExtensionManager(
            folder,
            Chosen(names, params=params),
            host=host,
            deadlines=Deadlines(hook_s=seconds, setup_s=seconds, piece_s=seconds),
        )
        manager.start()
        return manager

    return manage


@pytest.fixture
def chats(settings: Settings, engine: FakeEngine) -> Iterator[Chats]:
    """The chats that a manager's extensions take part in."""
    made: list[ChatService] = []

    def chats(manager: ExtensionManager) -> ChatService:
        store = ChatStore(settings.paths.database)
        templates = TemplateChoices(settings.templates_yaml)
        made.append(ChatService(store, engine, templates, Casting(), ExtensionHooks(manager)))
        return made[-1]

    yield chats
    for service in made:
        for store in service._stores.both:
            store.close()
