"""What every test shares."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants  # noqa: F401 - reads HF_HUB_OFFLINE, which the worker's loader sets
import pytest

from modules.access import Access
from modules.context import AppContext
from modules.engine.fake import FakeEngine
from modules.engine.protocol import LoadModel
from modules.settings import Settings
from server import build_context
from tests.hub import Hub, running_hub


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The faults in full count take an hour: they run where their mark is named, `-m soak`."""
    if "soak" not in config.getoption("markexpr"):
        left_out = [item for item in items if item.get_closest_marker("soak")]
        items[:] = [item for item in items if not item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio, as the server does."""
    return "asyncio"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on loopback, which downloads of this test go to and hurry at."""
    monkeypatch.setattr("modules.loader.download.transfer._FIRST_WAIT_S", 0.001)
    monkeypatch.setenv("HF_TOKEN", "")
    # The loader sets it where it is imported: in the worker, and in the tests of it.
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A launch whose folders are the test's own."""
    settings = Settings(
        user_data_dir=tmp_path / "user_data",
        model_dir=tmp_path / "models",
        lora_dir=tmp_path / "loras",
        prompt_dir=tmp_path / "prompts",
        no_starter=True,
    )
    settings.paths.prepare()
    return settings


@pytest.fixture
def engine() -> FakeEngine:
    """A fake engine with a model loaded."""
    engine = FakeEngine()
    asyncio.run(engine.load(LoadModel("models/fake-model")))
    return engine


@pytest.fixture
def ctx(settings: Settings, engine: FakeEngine) -> Iterator[AppContext]:
    """A running Lantern on loopback, without its web server."""
    ctx = build_context(settings, engine, Access())
    yield ctx
    for store in ctx.chats._stores.both:
        store.close()
