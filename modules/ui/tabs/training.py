"""The Training tab: its frame. training.js draws it from /page/events and the routes of ours."""

from __future__ import annotations

import gradio as gr

__all__ = ["build"]

_DATA = """
<section id="training-data" class="training-step" aria-labelledby="training-data-title">
  <header><h2 id="training-data-title" tabindex="-1">Data</h2>
    <p class="soft">What the LoRA learns. JSON, JSON lines, CSV, Parquet or plain text.</p>
    <div id="training-examples"></div></header>
  <div class="data-columns">
    <div class="data-sets">
      <div id="dataset-rows" class="dataset-rows"></div>
      <div id="dataset-drop" class="dataset-drop">
        <input id="dataset-files" type="file" multiple hidden
          accept=".json,.jsonl,.ndjson,.csv,.tsv,.parquet,.txt,.md">
        <button type="button" id="dataset-upload">Upload files…</button>
        <span class="soft">or drop them here</span>
        <div id="dataset-progress" role="status"></div>
      </div>
    </div>
    <div class="data-view">
      <div id="row-view" class="row-view"></div>
      <div id="lint-view" class="lint-view"></div>
    </div>
  </div>
</section>
"""

_SETTINGS = """
<section id="training-settings" class="training-step" aria-labelledby="training-settings-title">
  <header><h2 id="training-settings-title" tabindex="-1">Settings</h2>
    <div id="settings-changed" class="chips"></div></header>
  <div class="settings-columns">
    <div class="settings-form">
      <div id="settings-simple"></div>
      <button type="button" id="settings-all" aria-expanded="false"
        aria-controls="settings-groups">All settings</button>
      <div id="settings-groups" hidden></div>
    </div>
    <div class="settings-aside">
      <h3>Memory</h3>
      <div id="training-plan" class="plan"></div>
      <h3>As a file</h3>
      <div id="training-yaml"></div>
    </div>
  </div>
</section>
"""

_RUN = """
<section id="training-run" class="training-step" aria-labelledby="training-run-title">
  <header><h2 id="training-run-title" tabindex="-1">Run</h2>
    <div id="run-start" class="run-start"></div></header>
  <div id="run-merges" hidden></div>
  <div id="run-view"></div>
  <div id="run-lists"></div>
  <div id="run-compare"></div>
</section>
"""

_FRAME = f"""
<div id="training-tab" class="model-tab training-tab">
  <p id="training-guest" class="model-guest" hidden>Only the owner of this Lantern can train
    LoRAs.</p>
  <div id="training-owner" class="training-owner" hidden>
    <nav class="training-steps" aria-label="Steps">
      <button type="button" data-step="data"><b>1</b> Data <span class="soft"></span></button>
      <button type="button" data-step="settings"><b>2</b> Settings
        <span class="soft"></span></button>
      <button type="button" data-step="run"><b>3</b> Run <span class="soft"></span></button>
    </nav>
    <div id="training-page" class="training-page" tabindex="-1">{_DATA}{_SETTINGS}{_RUN}</div>
  </div>
</div>
"""


def build() -> None:
    """The tab's frame."""
    gr.HTML(_FRAME, elem_id="training-frame", apply_default_css=False)
