"""Default mode: text at the left, the model's continuation at the right."""

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
from modules.ui.markdown import GrowingMarkdown
from modules.ui.streaming import continuation, new_request_id

__all__ = ["Components", "bind", "build", "generate", "views"]

# The reply is foreign HTML: no scripts, no forms, and nothing is fetched for it.
_FRAME = '<iframe class="html-view" sandbox="" title="The reply as HTML" srcdoc="{}"></iframe>'
_POLICY = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
    "style-src 'unsafe-inline'; img-src data:\">"
)


@dataclass(frozen=True, slots=True)
class Components:
    """The widgets of this mode."""

    text: gr.Textbox
    generate: gr.Button
    go_on: gr.Button
    stop: gr.Button
    raw: gr.Textbox
    markdown: gr.HTML
    html: gr.HTML
    stats: gr.HTML
    request: gr.State


def build() -> Components:
    """Layout."""
    with gr.Row(elem_id="default-mode", elem_classes="writing"):
        with gr.Column(elem_classes="writing-half"):
            text = gr.Textbox(
                label="Text to send",
                placeholder="Write or choose a prompt, and the model continues it.",
                lines=18,
                max_lines=18,
                elem_classes="writing-box",
                elem_id="default-text",
            )
            tools("default")
            with gr.Row(elem_classes="writing-buttons"):
                start = gr.Button(
                    "Generate", variant="primary", elem_id="default-generate", min_width=90
                )
                go_on = gr.Button("Continue", elem_id="default-continue", min_width=90)
                stop = gr.Button("■ Stop", elem_id="default-stop", interactive=False, min_width=90)
        with gr.Column(elem_classes="writing-half"):
            with gr.Tabs(elem_classes="reader"):
                with gr.Tab("Raw"):
                    raw = gr.Textbox(
                        show_label=False,
                        container=False,
                        lines=18,
                        max_lines=18,
                        placeholder="The reply streams here.",
                        elem_classes="writing-box",
                        elem_id="default-raw",
                        buttons=["copy"],
                    )
                with gr.Tab("Markdown", render_children=True):
                    markdown = gr.HTML("", elem_classes="reader-page", apply_default_css=False)
                with gr.Tab("HTML", render_children=True):
                    page = gr.HTML("", elem_classes="reader-page", apply_default_css=False)
                token_views("default")
            stats = gr.HTML("", elem_classes="soft stats-line", elem_id="default-stats")
    return Components(text, start, go_on, stop, raw, markdown, page, stats, gr.State(""))


def bind(ctx: AppContext, blocks: gr.Blocks, c: Components, widgets: list[Widget]) -> None:
    """Events."""
    shown = [c.raw, c.markdown, c.html, c.stats, c.request, c.generate, c.go_on, c.stop]

    async def start(request: gr.Request, text: str, *values: Any) -> AsyncIterator[tuple[Any, ...]]:
        async for update in generate(ctx, user_of(request), text, "", values):
            yield update

    async def go_on(
        request: gr.Request, text: str, reply: str, *values: Any
    ) -> AsyncIterator[tuple[Any, ...]]:
        async for update in generate(ctx, user_of(request), text, reply, values):
            yield update

    async def stop(request_id: str) -> None:
        await ctx.engine.cancel(request_id)

    async def restore(request: gr.Request) -> tuple[str, str, str, str]:
        draft = await asyncio.to_thread(ctx.drafts.latest, user_of(request), "default")
        return draft.text, *views(draft.reply)

    listen(c.generate.click, start, [c.text, *widgets], shown)
    listen(c.go_on.click, go_on, [c.text, c.raw, *widgets], shown)
    listen(c.stop.click, stop, c.request, None)
    listen(blocks.load, restore, None, [c.text, c.raw, c.markdown, c.html])


async def generate(
    ctx: AppContext, user: str, text: str, beginning: str, values: tuple[Any, ...]
) -> AsyncIterator[tuple[Any, ...]]:
    """Stream the continuation of `text + beginning` into the reader, behind `beginning`.

    Yields raw text, Markdown, HTML, the stats line, the request's id, and the buttons.
    """
    request_id, reply, stats = new_request_id(), beginning, ""
    text, growing = storable(text), GrowingMarkdown()
    growing.update(reply)
    busy = gr.Button(interactive=False), gr.Button(interactive=False), gr.Button(interactive=True)
    idle = gr.Button(interactive=True), gr.Button(interactive=True), gr.Button(interactive=False)
    try:
        with sentence():
            params = from_widgets(values)
        yield *views(reply), "Reading the prompt…", request_id, *busy
        async for progress in continuation(
            ctx.engine, request_id, text + beginning, params, ctx.chats.hooks
        ):
            reply, stats = beginning + progress.text, progress.stats
            growing.update(reply)
            # The frame is loaded anew at each change, so it waits for the end.
            yield reply, _rendered(growing), gr.skip(), stats, request_id, *busy
        yield *views(reply), stats, "", *idle
    except LanternError as error:
        yield *views(reply), f'<span class="fault">{html.escape(str(error))}</span>', "", *idle
    finally:
        await keep_draft(ctx, user, "default", Draft(text, reply))


def views(reply: str) -> tuple[str, str, str]:
    """The reply as raw text, as rendered Markdown, and as a page in a locked frame."""
    whole = GrowingMarkdown()
    whole.update(reply)
    return reply, _rendered(whole), _FRAME.format(html.escape(_POLICY + reply))


def _rendered(markdown: GrowingMarkdown) -> str:
    blocks = "".join(f'<div class="block">{block}</div>' for block in markdown.blocks)
    return f'<div class="rendered">{blocks}</div>'
