"""Extensions and a real worker: what they share, and a hook that nothing can interrupt."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from modules.engine.local import LocalEngine
from modules.engine.protocol import Finished, LoadModel, TokenChunk
from modules.errors import WorkerDiedError
from modules.extensions.calls import Deadlines
from modules.extensions.chat import ExtensionHooks
from modules.extensions.chosen import Chosen
from modules.extensions.manager import ExtensionManager
from modules.loader.options import LoadOptions
from tests.engine.helpers import ask

pytestmark = pytest.mark.anyio

Attach = Callable[[str], ExtensionManager]


@pytest.fixture
async def engine(checkpoint: Path) -> AsyncIterator[LocalEngine]:
    engine = LocalEngine()
    await engine.load(LoadModel(str(checkpoint), LoadOptions(device="cpu")))
    yield engine
    await engine.close()


@pytest.fixture
def attach(engine: LocalEngine, tmp_path: Path) -> Attach:
    """Have an extension with this script take part in the replies of the engine."""

    def attach(source: str) -> ExtensionManager:
        folder = tmp_path / "extensions" / "ours"
        folder.mkdir(parents=True)
        (folder / "script.py").write_text(textwrap.dedent(source))
        deadlines = Deadlines(hook_s=0.2, grace_s=0.5)
        manager = ExtensionManager(tmp_path / "extensions", Chosen(("ours",)), deadlines=deadlines)
        manager.start()
        engine.attach(ExtensionHooks(manager))
        return manager

    return attach


async def text_of(engine: LocalEngine, id_: str) -> str:
    events = [event async for event in engine.generate(ask(id_, ban_eos_token=True))]
    assert isinstance(events[-1], Finished)
    return "".join(event.text for event in events if isinstance(event, TokenChunk))


async def test_a_param_that_is_set_counts_from_the_next_reply(
    engine: LocalEngine, attach: Attach
) -> None:
    plain = await text_of(engine, "plain")
    manager = attach("""
        from transformers import SuppressTokensLogitsProcessor

        params = {"most": 0}

        def logits_processor_modifier(processor_list, input_ids):
            banned = list(range(params["most"]))
            return [*processor_list, SuppressTokensLogitsProcessor(banned)]
    """)
    assert await text_of(engine, "all") == plain
    await manager.set_param("ours", "most", 280)
    assert await text_of(engine, "few") != plain
    await manager.disable("ours")
    assert await text_of(engine, "off") == plain


async def test_a_script_with_only_such_hooks_is_not_imported_here(
    engine: LocalEngine, attach: Attach, tmp_path: Path
) -> None:
    manager = attach(f"""
        import os, pathlib
        pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(os.getpid()))

        def logits_processor_modifier(processor_list, input_ids):
            return processor_list
    """)
    assert manager.plugins() == ()
    await text_of(engine, "a")
    assert int((tmp_path / "pid").read_text()) == engine.pid


async def test_a_hook_that_fails_there_is_told_here_and_the_reply_goes_on(
    engine: LocalEngine, attach: Attach
) -> None:
    plain = await text_of(engine, "plain")
    manager = attach("def tokenizer_modifier(*arguments):\n    1 / 0\n")
    assert await text_of(engine, "a") == plain
    (info,) = manager.infos()
    assert info.state == "failed"
    assert info.error == (
        "tokenizer_modifier raised ZeroDivisionError: division by zero (line 2 of script.py)."
    )


async def test_a_hook_that_nothing_can_interrupt_costs_the_worker_and_not_the_model(
    engine: LocalEngine, attach: Attach
) -> None:
    plain, pid = await text_of(engine, "plain"), engine.pid
    manager = attach("""
        import itertools

        def logits_processor_modifier(processor_list, input_ids):
            sum(itertools.repeat(0))  # for ever, without a look at signals
    """)
    with pytest.raises(WorkerDiedError, match="The extension ours hung in logits_processor"):
        await text_of(engine, "a")
    (info,) = manager.infos()
    assert (info.state, "did not return within" in info.error) == ("failed", True)
    seen = engine.changed.version
    while engine.state.phase != "ready" or engine.pid == pid:
        seen = await asyncio.wait_for(engine.changed.wait(seen), 60)
    assert await text_of(engine, "b") == plain
