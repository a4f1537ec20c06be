"""A whole Lantern without a server, in folders of its own, over a scripted model."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from modules.access import Access, AccessMiddleware
from modules.api.pages import build_pages
from modules.api.router import build_router
from modules.api.service import api_of
from modules.context import AppContext
from modules.engine.fake import FakeEngine
from modules.engine.protocol import LoadModel
from modules.errors import DownloadError
from modules.settings import ROOT, Origins, Settings
from modules.ui import models, training_merge
from modules.ui.routes import add_routes
from server import build_context
from tests.folders import put_lora
from tests.loader.folders import make_model

__all__ = ["House", "build", "keep_to_itself"]


@dataclass
class House:
    """Its application, and all that it keeps, in `folder`."""

    folder: Path
    ctx: AppContext
    app: FastAPI

    def client(self) -> httpx.AsyncClient:
        """The owner on loopback. A fault of ours is answered with 500, as a server does it."""
        transport = httpx.ASGITransport(
            self.app, raise_app_exceptions=False, client=("127.0.0.1", 5000)
        )
        return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=60)

    def files(self) -> Mapping[str, bytes | None]:
        """Every file but the database, and every folder (None)."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes() if path.is_file() else None
            for path in sorted(self.folder.rglob("*"))
            if not path.name.startswith("lantern.sqlite3") and path.name != "filler"
        }

    def rows(self) -> Mapping[str, list[tuple[Any, ...]]]:
        """Every row of the database, by its table."""
        with self.ctx.chats._stores.kept.reading() as db:
            names = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            return {
                name: [tuple(row) for row in db.execute(f"SELECT * FROM {name}")]
                for (name,) in names
            }

    def close(self) -> None:
        """Close its stores."""
        for store in self.ctx.chats._stores.both:
            store.close()


def build(
    folder: Path, engine: FakeEngine | None = None, place: Callable[[Path], None] | None = None
) -> House:
    """One with a model and a LoRA to choose; `place` may arrange its folders first."""
    settings = Settings(
        user_data_dir=folder / "user_data",
        model_dir=folder / "models",
        lora_dir=folder / "loras",
        prompt_dir=folder / "prompts",
        no_starter=True,
    )
    settings.paths.prepare()
    shutil.copytree(ROOT / "prompts", settings.prompt_dir)
    make_model(settings.model_dir)
    put_lora(settings.lora_dir, "tiny-lora")
    if place is not None:
        place(folder)
    engine = engine or FakeEngine()
    asyncio.run(engine.load(LoadModel("models/Tiny")))
    ctx = build_context(settings, engine, Access())
    (folder / "settings.yaml").write_text("# Mine\nverbose: true\n")
    ctx.host.origins = dataclasses.replace(Origins(), file=folder / "settings.yaml")
    return House(folder, ctx, _routes(ctx))


def keep_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetch no starter, and start no process for a merge."""

    async def merged(*_: object) -> str:
        return "Merged."

    def fetched(*_: object) -> Path:
        raise DownloadError("There is no network.", "Try again later.")

    monkeypatch.setattr(training_merge, "run_export", merged)
    monkeypatch.setattr(models, "fetch_starter", fetched)


def _routes(ctx: AppContext) -> FastAPI:
    """All of `server.build_app` but gradio, which takes a second and writes nothing."""
    api = api_of(ctx, partial(models.load, ctx))
    app = FastAPI(openapi_url=None)
    app.include_router(build_router(api))
    app.include_router(build_pages(api))
    add_routes(app, ctx)
    app.add_middleware(AccessMiddleware, access=ctx.access)
    return app
