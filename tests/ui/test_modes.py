"""The Default and Notebook modes: what streams, what is kept, what undo brings back."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import gradio as gr
import pytest

from modules.chat.drafts import Draft
from modules.context import AppContext
from modules.engine.fake import FakeEngine
from modules.engine.params import SamplingParams, knobs
from modules.engine.protocol import Finished, GenerateRequest, TokenChunk
from modules.errors import WorkerDiedError
from modules.ui.components.knobs import to_widgets
from modules.ui.streaming import continuation, new_request_id
from modules.ui.tabs import default_mode, notebook_mode
from modules.ui.tabs.default_mode import views

pytestmark = pytest.mark.anyio

VALUES = tuple(to_widgets(SamplingParams()))
PARIS = "The capital of France is Paris."
_LENGTH = list(knobs()).index("truncation_length")
NEGATIVE = (*VALUES[:_LENGTH], -1, *VALUES[_LENGTH + 1 :])


async def collected(updates: AsyncIterator[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [update async for update in updates]


def default(ctx: AppContext, text: str, beginning: str = "") -> AsyncIterator[tuple[Any, ...]]:
    return default_mode.generate(ctx, "owner", text, beginning, VALUES)


def notebook(ctx: AppContext, text: str) -> AsyncIterator[tuple[Any, ...]]:
    return notebook_mode.generate(ctx, "owner", text, VALUES)


def enabled(update: tuple[Any, ...], buttons: int) -> list[bool]:
    return [button.interactive for button in update[-buttons:]]


@pytest.fixture
def slow(engine: FakeEngine) -> FakeEngine:
    """A word every 10 ms, for a long time."""
    engine.delay = 0.01
    engine.reply = lambda request: "word " * 400
    return engine


# -- default ----------------------------------------------------------------------------


async def test_the_reply_is_shown_raw_as_markdown_and_as_html(
    ctx: AppContext, engine: FakeEngine
) -> None:
    engine.reply = lambda request: "**Paris**"
    raw, markdown, html, stats, request_id, *_ = (await collected(default(ctx, "Q:")))[-1]
    assert raw == "**Paris**"
    assert "<strong>Paris</strong>" in markdown
    assert "**Paris**" in html
    assert "1 tokens" in stats
    assert request_id == ""


async def test_the_text_is_sent_as_it_is_without_a_template(
    ctx: AppContext, engine: FakeEngine
) -> None:
    await collected(default(ctx, "Q: what?\nA:"))
    assert engine.requests[-1].prompt == "Q: what?\nA:"
    assert engine.requests[-1].special_tokens


async def test_continue_goes_on_behind_the_reply(ctx: AppContext, engine: FakeEngine) -> None:
    last = (await collected(default(ctx, "Q:", "It is")))[-1]
    assert engine.requests[-1].prompt == "Q:It is"
    assert last[0] == "It is" + PARIS


async def test_text_streams_while_it_is_decoded(ctx: AppContext, slow: FakeEngine) -> None:
    seen = []
    async for update in default(ctx, "Q:"):
        seen.append(update[0])
        if update[4] and len(seen) == 3:
            await slow.cancel(update[4])
    assert "" == seen[0] < seen[1] < seen[2] <= seen[-1]
    assert seen[-1].startswith(seen[2])


async def test_while_it_streams_only_stop_can_be_clicked(ctx: AppContext) -> None:
    updates = await collected(default(ctx, "Q:"))
    assert enabled(updates[0], 3) == [False, False, True]
    assert enabled(updates[-1], 3) == [True, True, False]


async def test_what_was_generated_is_there_after_a_reload(ctx: AppContext) -> None:
    await collected(default(ctx, "Q:"))
    assert ctx.drafts.latest("owner", "default") == Draft("Q:", PARIS)


async def test_what_was_generated_is_kept_when_the_tab_is_closed(
    ctx: AppContext, slow: FakeEngine
) -> None:
    stream = default(ctx, "Q:")
    while not (await anext(stream))[0]:
        pass
    await stream.aclose()  # type: ignore[attr-defined]
    assert ctx.drafts.latest("owner", "default").reply.startswith("word")
    assert slow.running == set()


async def test_without_a_model_the_stats_line_says_what_to_do(
    ctx: AppContext, engine: FakeEngine
) -> None:
    await engine.unload()
    last = (await collected(default(ctx, "Q:", "kept")))[-1]
    assert last[0] == "kept"
    assert "No model is loaded. Load one" in last[3]
    assert enabled(last, 3) == [True, True, False]


async def test_the_text_is_kept_when_the_engine_dies(ctx: AppContext, slow: FakeEngine) -> None:
    last: tuple[Any, ...] = ()
    async for last in default(ctx, "Q:"):
        if last[0]:
            slow.die()
    assert last[0].startswith("word")
    assert "signal 9" in last[3]
    assert ctx.drafts.latest("owner", "default") == Draft("Q:", last[0])


async def test_parameters_out_of_bounds_are_a_notice_and_send_nothing(
    ctx: AppContext, engine: FakeEngine
) -> None:
    for updates in (
        default_mode.generate(ctx, "owner", "Q:", "", NEGATIVE),
        notebook_mode.generate(ctx, "owner", "Q:", NEGATIVE),
    ):
        with pytest.raises(gr.Error, match="truncation_length cannot be -1"):
            await collected(updates)
    assert engine.requests == []
    assert ctx.drafts.latest("owner", "default").text == "Q:"


def test_html_of_a_reply_stays_in_a_frame_without_rights() -> None:
    _, markdown, frame = views('"><script>alert(1)</script>')
    assert "<script" not in markdown
    assert "<script" not in frame
    assert 'sandbox=""' in frame
    assert "default-src &#x27;none&#x27;" in frame
    assert frame.count('"') == 8


# -- notebook ---------------------------------------------------------------------------


async def test_the_text_grows_by_what_the_model_writes(ctx: AppContext, engine: FakeEngine) -> None:
    last = (await collected(notebook(ctx, "Once ")))[-1]
    assert last[0] == "Once " + PARIS
    assert engine.requests[-1].prompt == "Once "
    assert ctx.drafts.latest("owner", "notebook") == Draft("Once " + PARIS)


async def test_undo_brings_the_text_before_the_generation_back(ctx: AppContext) -> None:
    whole = (await collected(notebook(ctx, "Once ")))[-1][0]
    assert notebook_mode.step_back(ctx, "owner", whole) == "Once "
    assert notebook_mode.step_back(ctx, "owner", "Once ") == ""


async def test_undo_after_typing_brings_back_what_stood_before(ctx: AppContext) -> None:
    whole = (await collected(notebook(ctx, "Once ")))[-1][0]
    assert notebook_mode.step_back(ctx, "owner", whole + " and typed") == whole


async def test_regenerating_writes_the_same_place_anew(ctx: AppContext, engine: FakeEngine) -> None:
    whole = (await collected(notebook(ctx, "Once ")))[-1][0]
    engine.reply = lambda request: "upon a time"
    before = notebook_mode.step_back(ctx, "owner", whole)
    assert (await collected(notebook(ctx, before)))[-1][0] == "Once upon a time"
    assert notebook_mode.step_back(ctx, "owner", "Once upon a time") == "Once "


async def test_stop_keeps_the_text_so_far(ctx: AppContext, slow: FakeEngine) -> None:
    last: tuple[Any, ...] = ()
    async for last in notebook(ctx, "Once "):
        if isinstance(last[0], str) and last[2]:
            await slow.cancel(last[2])
    assert last[0].startswith("Once word")
    assert ctx.drafts.latest("owner", "notebook") == Draft(last[0])


async def test_a_closed_tab_leaves_the_text_so_far(ctx: AppContext, slow: FakeEngine) -> None:
    stream = notebook(ctx, "Once ")
    while not isinstance((await anext(stream))[0], str):
        pass
    await stream.aclose()  # type: ignore[attr-defined]
    assert ctx.drafts.latest("owner", "notebook").text.startswith("Once word")
    assert slow.running == set()


async def test_without_a_model_the_text_stays(ctx: AppContext, engine: FakeEngine) -> None:
    await engine.unload()
    last = (await collected(notebook(ctx, "Once ")))[-1]
    assert last[0] == "Once "
    assert "No model is loaded." in last[1]
    assert enabled(last, 4) == [True, True, True, False]


async def test_one_persons_notebook_is_not_anothers(ctx: AppContext) -> None:
    await collected(notebook(ctx, "Once "))
    assert ctx.drafts.latest("guest-1", "notebook") == Draft()
    assert notebook_mode.step_back(ctx, "guest-1", "") == ""
    assert ctx.drafts.latest("owner", "notebook") == Draft("Once " + PARIS)


# -- streaming --------------------------------------------------------------------------


async def test_the_last_progress_has_the_whole_text_and_its_figures(engine: FakeEngine) -> None:
    progress = [p async for p in continuation(engine, "id", "one two", SamplingParams())]
    assert progress[-1].text == PARIS
    assert "6 tokens · prompt " in progress[-1].stats


async def test_the_end_at_the_limit_is_said(engine: FakeEngine) -> None:
    params = SamplingParams(max_new_tokens=2)
    last = [p async for p in continuation(engine, "id", "x", params)][-1]
    assert last.text == "The capital"
    assert last.stats.endswith("ended at the token limit")


class Dying(FakeEngine):
    """Says one word and is killed."""

    async def generate(
        self, request: GenerateRequest
    ) -> AsyncGenerator[TokenChunk | Finished, None]:
        """One word."""
        yield TokenChunk(request.id, "half", 1)
        raise WorkerDiedError("The engine worker was killed.", "Load the model again.")


async def test_the_text_before_a_fault_is_yielded_whole() -> None:
    updates = continuation(Dying(), "id", "x", SamplingParams())
    assert (await anext(updates)).text == "half"
    with pytest.raises(WorkerDiedError):
        await anext(updates)


def test_request_ids_cannot_be_guessed() -> None:
    assert len({new_request_id() for _ in range(100)}) == 100
    assert len(new_request_id()) >= 32
