"""The Model tab: its frame. model.js draws it from /page/events and the routes of models."""

from __future__ import annotations

import gradio as gr

__all__ = ["build"]

_FRAME = """
<div id="model-tab" class="model-tab">
  <p id="model-guest" class="model-guest" hidden>Only the owner of this Lantern can choose and load
    models.</p>
  <div id="model-owner" class="model-owner" hidden>
    <section class="model-list" aria-labelledby="model-list-title">
      <header><h2 id="model-list-title">Models</h2>
        <button type="button" class="quiet" id="model-refresh">Refresh</button></header>
      <ul id="model-rows"></ul>
      <footer id="model-list-end"></footer>
    </section>
    <div class="model-main">
      <section id="model-card" class="model-card" aria-label="The selected model"></section>
      <section class="panel" aria-labelledby="adapters-title">
        <header><h2 id="adapters-title">LoRAs</h2>
          <button type="button" class="quiet" id="adapters-refresh">Refresh</button></header>
        <div id="adapter-rows"></div>
      </section>
      <section class="panel" aria-labelledby="download-title">
        <header><h2 id="download-title">Download</h2></header>
        <form id="download-form" class="download-form">
          <label for="download-name">Model or LoRA on the hub</label>
          <input id="download-name" type="text" autocomplete="off" autocapitalize="off"
            spellcheck="false" maxlength="200" placeholder="owner/name or owner/name:branch"
            aria-describedby="download-help">
          <button type="submit" id="download-look">Look</button>
          <p id="download-help" class="soft">Shows files and sizes first; nothing moves until you
            press Download.</p>
        </form>
        <div id="download-listing" aria-live="polite"></div>
        <div id="download-jobs"></div>
      </section>
    </div>
  </div>
</div>
"""


def build() -> None:
    """The tab's frame."""
    gr.HTML(_FRAME, elem_id="model-frame", apply_default_css=False)
