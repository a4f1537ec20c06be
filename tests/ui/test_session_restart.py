"""Restarting from the page: what would not come up again is not ended."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from modules.context import AppContext
from modules.engine.fake import FakeEngine
from modules.errors import LanternError, SettingsError
from modules.handover import Handover, LoadedModel, fingerprint
from modules.host import Host, host_of
from modules.settings import Settings, read_launch
from modules.ui import models
from modules.ui.resume import go_on, loaded_now
from modules.ui.session_restart import restart
from tests.folders import TINY, put_llama

pytestmark = pytest.mark.anyio


@pytest.fixture
def host(ctx: AppContext, tmp_path: Path) -> Host:
    file = tmp_path / "settings.yaml"
    file.write_text(f"user_data_dir: {ctx.settings.user_data_dir}\n")
    return host_of(ctx.settings, ctx.access, read_launch(["--settings", str(file)], {})[1])


@pytest.fixture
def stopped(host: Host) -> list[str]:
    """What was done to the server."""
    found: list[str] = []
    host.offer_restart(lambda: found.append("stopped"))
    return found


@pytest.fixture
def there(ctx: AppContext, host: Host) -> AppContext:
    return dataclasses.replace(ctx, host=host)


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def write(ctx: AppContext, text: str) -> None:
    with ctx.host.origins.file.open("a") as file:
        file.write(text)


async def test_it_is_answered_before_the_server_ends(there: AppContext, stopped: list[str]) -> None:
    assert await restart(there) == {"url": ""}
    assert stopped == []
    await asyncio.sleep(0.5)
    assert (stopped, there.host.restarting) == (["stopped"], True)
    assert there.host.loaded == loaded_now(there)


async def test_a_page_that_moves_is_told_its_next_address(
    there: AppContext, stopped: list[str], taken: int
) -> None:
    write(there, f"listen_port: {taken}\n")
    with pytest.raises(SettingsError, match=f"port {taken}"):
        await restart(there)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]
    write(there, f"listen_port: {free}\n")
    assert await restart(there) == {"url": f"http://127.0.0.1:{free}"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("cpu: [", "not valid YAML"),
        ("wbits: 5", "--wbits"),
        ("gradio_auth: nobody", "user:password"),
        ("ssl_certfile: none.pem", "belong together"),
        ("character: Nobody", "Nobody"),
        ("listen_host: 203.0.113.77", "cannot listen on 203.0.113.77"),
    ],
)
async def test_what_would_not_come_up_again_is_not_ended(
    line: str, said: str, there: AppContext, stopped: list[str]
) -> None:
    write(there, line + "\n")
    with pytest.raises(LanternError, match=said):
        await restart(there)
    await asyncio.sleep(0.4)
    assert (stopped, there.host.restarting) == ([], False)


async def test_a_notebook_says_how_to_do_it(ctx: AppContext) -> None:
    with pytest.raises(LanternError, match=r"cannot restart itself.*launch\(\)"):
        await restart(ctx)


# -- the next one -------------------------------------------------------------------------


@pytest.fixture
def model(settings: Settings) -> Path:
    return put_llama(settings.model_dir, "Tiny", TINY)


def handed(ctx: AppContext, loaded: LoadedModel | None, chosen: str = "") -> Handover:
    return Handover(chosen=chosen, settings=fingerprint(ctx.settings), loaded=loaded)


async def settle(ctx: AppContext) -> None:
    for job in ctx.jobs.jobs():
        await job.wait()


async def test_what_was_loaded_is_loaded_again_with_its_loras(
    ctx: AppContext, engine: FakeEngine, model: Path
) -> None:
    await engine.load_adapter("poet", "loras/poet")
    engine.weigh_adapters({"poet": 0.5})
    before = loaded_now(ctx)
    assert before is not None
    await engine.unload()
    options = {**before.options, "context_length": 512}
    go_on(ctx, handed(ctx, dataclasses.replace(before, path=str(model), options=options)))
    await settle(ctx)
    state = engine.state
    assert (state.phase, Path(state.path).name) == ("ready", "Tiny")
    assert state.command is not None
    assert state.command.options.context_length == 512
    assert [(one.info.name, one.weight) for one in state.adapters] == [("poet", 0.5)]


async def test_other_settings_decide_how_it_is_loaded(
    ctx: AppContext, engine: FakeEngine, model: Path
) -> None:
    before = LoadedModel(str(model), {"context_length": 512})
    go_on(ctx, dataclasses.replace(handed(ctx, before), settings="others"))
    await settle(ctx)
    assert engine.state.command is not None
    assert engine.state.command.options.context_length != 512


async def test_what_was_unloaded_stays_so(ctx: AppContext, engine: FakeEngine) -> None:
    await engine.unload()
    assert loaded_now(ctx) is None
    go_on(ctx, handed(ctx, None))
    assert ctx.jobs.jobs() == []


@pytest.mark.parametrize("gone", [True, False], ids=["its folder is gone", "another one is chosen"])
async def test_a_launch_begins_as_ever_where_that_is_to_be(
    gone: bool, ctx: AppContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    begun: list[AppContext] = []
    monkeypatch.setattr(models, "begin", begun.append)
    before = LoadedModel(str(tmp_path / "gone"))
    go_on(ctx, handed(ctx, before, "" if gone else "another"))
    assert begun == [ctx]
