"""Notebook mode: one text that the model continues, with undo and regenerate."""

from __future__ import annotations

import asyncio
import html
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from modules.chat.database import storable
from modules.chat.drafts import Draft
from modules.context import AppContext
from modules.errors import LanternError
from modules.ui.components.handlers import keep_draft, listen, sentence, user_of
from modules.ui.components.knobs import Widget, from_widgets
from modules.ui.components.writing import token_views, tools
from modules.ui.streaming import continuation, new_request_id

__all__ = ["Components", "bind", "build", "generate"]


@dataclass(frozen=True, slots=True)
class Components:
    """The widgets of this mode."""

    text: gr.Textbox
    generate: gr.Button
    regenerate: gr.Button
    undo: gr.Button
    stop: gr.Button
    stats: gr.HTML
    request: gr.State


def build() -> Components:
    """Layout."""
    with gr.Column(elem_id="notebook-mode", elem_classes="writing"):
        with gr.Tabs(elem_classes="reader"):
            with gr.Tab("Raw"):
                text = gr.Textbox(
                    show_label=False,
                    container=False,
                    placeholder="Begin a text, and the model continues it.",
                    lines=20,
                    max_lines=20,
                    elem_classes="writing-box",
                    elem_id="notebook-text",
                )
            token_views("notebook")
        tools("notebook")
        with gr.Row(elem_classes="writing-buttons"):
            start = gr.Button(
                "Generate", variant="primary", elem_id="notebook-generate", min_width=90
            )
            again = gr.Button("Regenerate", elem_id="notebook-regenerate", min_width=90)
            undo = gr.Button("Undo", elem_id="notebook-undo", min_width=90)
            stop = gr.Button("■ Stop", elem_id="notebook-stop", interactive=False, min_width=90)
        stats = gr.HTML("", elem_classes="soft stats-line", elem_id="notebook-stats")
    return Components(text, start, again, undo, stop, stats, gr.State(""))


def bind(ctx: AppContext, blocks: gr.Blocks, c: Components, widgets: list[Widget]) -> None:
    """Events."""
    shown = [c.text, c.stats, c.request, c.generate, c.regenerate, c.undo, c.stop]

    async def start(request: gr.Request, text: str, *values: Any) -> AsyncIterator[tuple[Any, ...]]:
        async for update in generate(ctx, user_of(request), text, values):
            yield update

    async def again(request: gr.Request, text: str, *values: Any) -> AsyncIterator[tuple[Any, ...]]:
        with sentence():
            before = await asyncio.to_thread(step_back, ctx, user_of(request), text)
        async for update in generate(ctx, user_of(request), before, values):
            yield update

    async def undo(request: gr.Request, text: str) -> str:
        with sentence():
            return await asyncio.to_thread(step_back, ctx, user_of(request), text)

    async def stop(request_id: str) -> None:
        await ctx.engine.cancel(request_id)

    async def restore(request: gr.Request) -> str:
        return (await asyncio.to_thread(ctx.drafts.latest, user_of(request), "notebook")).text

    listen(c.generate.click, start, [c.text, *widgets], shown)
    listen(c.regenerate.click, again, [c.text, *widgets], shown)
    listen(c.undo.click, undo, c.text, c.text)
    listen(c.stop.click, stop, c.request, None)
    listen(blocks.load, restore, None, c.text)


def step_back(ctx: AppContext, user: str, text: str) -> str:
    """The text before the last generation, or before what was typed since.

    What stands there now stays in the drafts.
    """
    ctx.drafts.save(user, "notebook", Draft(text))
    return ctx.drafts.undo(user, "notebook").text


async def generate(
    ctx: AppContext, user: str, text: str, values: tuple[Any, ...]
) -> AsyncIterator[tuple[Any, ...]]:
    """Stream the continuation of `text` behind it.

    Yields the whole text, the stats line, the request's id, and the buttons.
    """
    text = storable(text)
    request_id, whole, stats = new_request_id(), text, ""
    busy = (gr.Button(interactive=False),) * 3 + (gr.Button(interactive=True),)
    idle = (gr.Button(interactive=True),) * 3 + (gr.Button(interactive=False),)
    await keep_draft(ctx, user, "notebook", Draft(text))
    try:
        with sentence():
            params = from_widgets(values)
        yield gr.skip(), "Reading the text…", request_id, *busy
        async for progress in continuation(ctx.engine, request_id, text, params, ctx.chats.hooks):
            whole, stats = text + progress.text, progress.stats
            yield whole, stats, request_id, *busy
        yield whole, stats, "", *idle
    except LanternError as error:
        yield whole, f'<span class="fault">{html.escape(str(error))}</span>', "", *idle
    finally:
        await keep_draft(ctx, user, "notebook", Draft(whole))
