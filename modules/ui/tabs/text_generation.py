"""The Text generation tab: the chats at the left, and three modes that share the engine."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from modules.context import AppContext
from modules.ui.components.knobs import Widget
from modules.ui.tabs import default_mode, notebook_mode

__all__ = ["Components", "bind", "build"]

_SIDEBAR = """
<aside class="side" aria-label="Chats">
  <div class="side-head">
    <button type="button" class="primary" data-act="new-chat">New chat</button>
    <button type="button" class="quiet side-fold" data-act="fold" aria-label="Hide the list"
      title="Hide the list">«</button>
  </div>
  <input id="find-chat" type="search" placeholder="Find a chat" aria-label="Find a chat">
  <nav id="chat-list" aria-label="Stored chats"></nav>
</aside>
"""

# The chat is drawn by page.js from what /page/events says; here stands its frame.
_CHAT = """
<section class="chat" aria-label="Chat">
  <header class="chat-head">
    <button type="button" class="quiet side-open" data-act="fold" title="Chats"
      aria-label="Show the list of chats">☰</button>
    <h2 id="chat-title">New chat</h2>
    <button type="button" class="quiet" data-act="loras" id="loras-button" aria-haspopup="menu"
      title="The LoRAs of this chat" hidden></button>
    <button type="button" class="quiet" data-act="system" id="system-button">System message</button>
  </header>
  <div id="system-editor" class="system-editor" hidden>
    <label for="system-text">The system message goes before everything else, and is never left
      out.</label>
    <textarea id="system-text" rows="3" placeholder="You are a helpful assistant."></textarea>
    <div class="row-end"><button type="button" class="quiet" data-act="system-close">Close</button>
    <button type="button" class="primary" data-act="system-save">Save</button></div>
  </div>
  <div id="chat-scroll" tabindex="0" aria-label="Messages">
    <div id="chat-messages" class="messages" role="log"></div>
  </div>
  <div class="composer-place">
    <button type="button" id="to-end" data-act="to-end" hidden>↓ To the end</button>
    <p id="composer-note" class="composer-note" role="status" hidden></p>
    <form id="composer" class="composer">
      <textarea id="composer-text" rows="1" placeholder="Message…" aria-label="Message"></textarea>
      <div class="composer-row">
        <span id="composer-count" class="soft"></span>
        <button type="submit" class="primary" id="send">Send</button>
        <button type="button" class="stop" id="stop" data-act="stop" hidden>■ Stop</button>
      </div>
    </form>
  </div>
</section>
"""


_MODES_END = """
<button type="button" class="quiet" data-act="params" id="params-button"
  title="Show the parameters beside the text">Parameters ▸</button>
"""


@dataclass(frozen=True, slots=True)
class Components:
    """What the tab's modes are made of."""

    default: default_mode.Components
    notebook: notebook_mode.Components


def build(ctx: AppContext) -> Components:
    """Layout."""
    with gr.Row(elem_id="text-generation"):
        gr.HTML(_SIDEBAR, elem_id="sidebar", apply_default_css=False)
        with gr.Column(elem_id="modes-column"):
            gr.HTML(_MODES_END, elem_id="modes-end", apply_default_css=False)
            with gr.Tabs(elem_id="modes"):
                with gr.Tab("Chat", id="chat"):
                    gr.HTML(_CHAT, elem_id="chat-frame", apply_default_css=False)
                with gr.Tab("Default", id="default", render_children=True):
                    default = default_mode.build(ctx)
                with gr.Tab("Notebook", id="notebook", render_children=True):
                    notebook = notebook_mode.build()
    return Components(default, notebook)


def bind(ctx: AppContext, blocks: gr.Blocks, components: Components, widgets: list[Widget]) -> None:
    """Events. Those of the chat are page.js's and go to modules/ui/routes.py."""
    default_mode.bind(ctx, blocks, components.default, widgets)
    notebook_mode.bind(ctx, blocks, components.notebook, widgets)
