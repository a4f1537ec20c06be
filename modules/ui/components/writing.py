"""What the Default and Notebook modes share: prompts, a counter, and views of the tokens.

writing.js fills them.
"""

from __future__ import annotations

import gradio as gr

__all__ = ["token_views", "tools"]

_TOOLS = """
<div class="prompt-tools">
  <select id="{mode}-prompt" aria-label="Prompt" title="A text from prompts/"></select>
  <button type="button" class="quiet" id="{mode}-prompt-save" hidden
    title="Keep this text in prompts/">Save prompt…</button>
  <button type="button" class="quiet" id="{mode}-prompt-delete" hidden
    title="Delete the chosen prompt">Delete</button>
  <span id="{mode}-count" class="soft counted"></span>
</div>
<p id="{mode}-draft" class="composer-note" role="status" hidden></p>
"""


def tools(mode: str) -> gr.HTML:
    """The row below a text: prompts to choose and save, and how many tokens there are."""
    return gr.HTML(
        _TOOLS.format(mode=mode), elem_classes="writing-tools-frame", apply_default_css=False
    )


def token_views(mode: str) -> None:
    """Two tabs: the text by its tokens, and what may come after it."""
    for name, what in (("Tokens", "tokens"), ("Logits", "logits")):
        with gr.Tab(name, render_children=True):
            frame = f'<div id="{mode}-{what}" class="{what}-view"></div>'
            gr.HTML(frame, elem_classes="reader-page", apply_default_css=False)
