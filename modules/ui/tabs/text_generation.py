"""The Text generation tab: the chats at the left, and three modes that share the engine."""

from __future__ import annotations

import html
from dataclasses import dataclass

import gradio as gr

from modules.chat.document_text import MAX_FILE_BYTES
from modules.context import AppContext
from modules.ui.components.knobs import Widget
from modules.ui.tabs import default_mode, notebook_mode

__all__ = ["Components", "bind", "build"]

_SIDEBAR = """
<aside class="side" aria-label="Chats">
  <div class="side-head">
    <button type="button" class="primary" data-act="new-chat">New chat</button>
    <button type="button" class="quiet" data-act="list-menu" aria-haspopup="menu"
      aria-label="More to do with chats" title="Incognito, import, export">⋯</button>
    <button type="button" class="quiet side-fold" data-act="fold" aria-label="Hide the list"
      title="Hide the list">«</button>
  </div>
  <input id="find-chat" type="search" placeholder="Find in chats" autocomplete="off"
    aria-label="Find in titles and messages">
  <nav id="chat-list" aria-label="Stored chats"></nav>
  <div class="side-end">
    <button type="button" class="quiet" data-act="characters" aria-haspopup="dialog">Characters
      </button>
    <button type="button" class="quiet" data-act="profile" id="profile-button"
      aria-haspopup="dialog" title="What you are called in chats">You</button>
  </div>
</aside>
"""

# The chat is drawn by page.js from what /page/events says; here stands its frame.
_CHAT = f"""
<section class="chat" aria-label="Chat">
  <header class="chat-head">
    <button type="button" class="quiet side-open" data-act="fold" title="Chats"
      aria-label="Show the list of chats">☰</button>
    <h2 id="chat-title">New chat</h2>
    <span id="incognito-mark" class="incognito-mark" hidden title="This chat is in memory alone: it
      is gone when Lantern ends, or when it was closed for a day">Incognito</span>
    <button type="button" class="quiet" data-act="tree" id="tree-button" hidden
      title="The branches of this chat">Branches</button>
    <button type="button" class="quiet" data-act="characters" id="character-button"
      aria-haspopup="dialog">Character ▾</button>
    <button type="button" class="quiet" data-act="mode" id="mode-button" aria-haspopup="menu"
      title="How the model reads this chat">Instruct ▾</button>
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
  <p id="chat-note" class="composer-note" role="status" hidden></p>
  <div id="chat-scroll" tabindex="0" aria-label="Messages">
    <div id="chat-messages" class="messages" role="log"></div>
  </div>
  <div class="composer-place">
    <button type="button" id="to-end" data-act="to-end" hidden>↓ To the end</button>
    <p id="composer-note" class="composer-note" role="status" hidden></p>
    <form id="composer" class="composer">
      <div id="composer-files" class="files" aria-label="Attached files" hidden></div>
      <textarea id="composer-text" rows="1" placeholder="Message…" aria-label="Message"></textarea>
      <div class="composer-row">
        <button type="button" class="quiet icon" id="attach" data-act="attach"
          data-limit="{MAX_FILE_BYTES}" aria-label="Attach files"
          title="Attach text, PDF or DOCX; dropping or pasting does it, too">
          <svg viewBox="0 0 24 24" width="20" height="20" aria-hidden="true" fill="none"
            stroke="currentColor" stroke-width="1.8" stroke-linecap="round"><path d="m20 11-8.5
            8.5a5 5 0 0 1-7-7L13 4a3.3 3.3 0 0 1 4.7 4.7l-8.4 8.4a1.7 1.7 0 0 1-2.4-2.4L14.5
            7"/></svg></button>
        <input type="file" id="attach-input" multiple hidden>
        <button type="button" class="quiet" id="composer-count" data-act="context" hidden
          title="What goes into the next request"><progress id="composer-bar" max="1" value="0"
          aria-hidden="true"></progress><span id="composer-tokens"></span></button>
        <button type="button" class="quiet icon" id="composer-more" data-act="composer-menu"
          aria-haspopup="menu" aria-label="More to do than send"
          title="Start reply with, impersonate, and more">⋯</button>
        <button type="submit" class="primary" id="send">Send</button>
        <button type="button" class="stop" id="stop" data-act="stop" hidden>■ Stop</button>
      </div>
    </form>
  </div>
</section>
"""


# The character of new chats, as --character has it.
_USUAL = '<span id="usual-character" hidden>{}</span>'

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
                    usual = _USUAL.format(html.escape(ctx.settings.character))
                    gr.HTML(_CHAT + usual, elem_id="chat-frame", apply_default_css=False)
                with gr.Tab("Default", id="default", render_children=True):
                    default = default_mode.build()
                with gr.Tab("Notebook", id="notebook", render_children=True):
                    notebook = notebook_mode.build()
    return Components(default, notebook)


def bind(ctx: AppContext, blocks: gr.Blocks, components: Components, widgets: list[Widget]) -> None:
    """Events. Those of the chat are page.js's and go to modules/ui/routes.py."""
    default_mode.bind(ctx, blocks, components.default, widgets)
    notebook_mode.bind(ctx, blocks, components.notebook, widgets)
