"""The page, put together and mounted on the web server's application."""

from __future__ import annotations

import gradio as gr
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from modules.context import AppContext
from modules.ui.components import strip
from modules.ui.extension_widgets import ExtensionWidgets
from modules.ui.routes import STATIC, add_routes
from modules.ui.tabs import model, parameters, session, text_generation, training
from modules.ui.theme import lantern_theme

__all__ = ["mount_page"]

# The theme is set before the first paint, so that a dark page does not flash white. params.js
# comes before the style sheets, which scripts wait for: gradio may call it before they are there.
_HEAD = """
<meta name="viewport" content="width=device-width, initial-scale=1">
<script src="page/static/params.js"></script>
<link rel="stylesheet" href="page/static/page.css">
<link rel="stylesheet" href="page/static/model.css">
<link rel="stylesheet" href="page/static/training.css">
<link rel="stylesheet" href="page/static/characters.css">
<link rel="stylesheet" href="page/static/chats.css">
<link rel="stylesheet" href="page/static/tokens.css">
<link rel="stylesheet" href="page/static/request.css">
<link rel="stylesheet" href="page/static/session.css">
<link rel="stylesheet" href="page/static/tools.css">
<link rel="stylesheet" href="page/static/extensions.css">
<script>
  document.documentElement.dataset.theme = localStorage.getItem("lantern-theme")
    ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
</script>
<script type="module" src="page/static/page.js"></script>
<script type="module" src="page/static/presets.js"></script>
<script type="module" src="page/static/next_token.js"></script>
<script type="module" src="page/static/writing.js"></script>
"""

_SESSIONS = 200
"""Open pages of which gradio remembers its components, 0.4 MB each; by itself it keeps 10,000."""


def mount_page(app: FastAPI, ctx: AppContext) -> FastAPI:
    """Serve the page at / of `app`, and its routes below /page."""
    widgets = ExtensionWidgets(ctx.extensions)
    add_routes(app, ctx, widgets)
    app.mount("/page/static", StaticFiles(directory=STATIC), name="static")
    mounted: FastAPI = gr.mount_gradio_app(
        app,
        build_page(ctx, widgets),
        path="/",
        root_path=ctx.settings.subpath or None,
        theme=lantern_theme(),
        head=parameters.facts() + _HEAD,
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        blocked_paths=[str(ctx.settings.user_data_dir), str(ctx.settings.model_dir)],
        max_file_size="1mb",
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        show_error=True,
        favicon_path=str(STATIC / "lantern.svg"),
    )
    return mounted


def build_page(ctx: AppContext, widgets: ExtensionWidgets) -> gr.Blocks:
    """Every tab: first all layout, then all events."""
    blocks: gr.Blocks
    with gr.Blocks(title="Lantern", analytics_enabled=False, fill_width=True) as blocks:
        strip.build()
        with gr.Tabs(elem_id="tabs", overflow_behavior="wrap"):
            with gr.Tab("Text generation", id="text", elem_id="tab-text"):
                text = text_generation.build(ctx)
            gr.Tab("Parameters", id="parameters", elem_id="tab-parameters")
            with gr.Tab("Model", id="model", elem_id="tab-model"):
                model.build()
            with gr.Tab("Training", id="training", elem_id="tab-training"):
                training.build()
            widgets.build_tabs()
            with gr.Tab("Session", id="session", elem_id="tab-session"):
                session.build()
        # Beside the tabs and not within one, because page.css shows the same widgets as a
        # panel at the side of the text, and gradio builds a tab only when it is opened.
        params = parameters.build(below=widgets.build_blocks)
        parameters.bind(blocks, params)
        text_generation.bind(ctx, blocks, text, params.widgets)
        widgets.bind(blocks)
    widgets.guard_late(blocks)
    blocks.queue(default_concurrency_limit=None, api_open=False)
    blocks.state_session_capacity = _SESSIONS
    return blocks
