"""The strip over all tabs: the model, what runs, and how to change it. page.js fills it."""

from __future__ import annotations

import gradio as gr

__all__ = ["build"]

_HTML = """
<header class="strip">
  <span class="brand"><svg viewBox="0 0 24 24" width="20" height="20" aria-hidden="true">
    <path d="M9 3h6M12 3v2M7 8h10l1 9H6zM8 20h8" fill="none" stroke="currentColor"
     stroke-width="1.7" stroke-linecap="round" stroke-linejoin="round"/>
    <path d="M12 10c1.4 1.6 2 2.5 2 3.4a2 2 0 1 1-4 0c0-.9.6-1.8 2-3.4z" fill="var(--accent)"/>
  </svg>Lantern</span>
  <div id="strip-model" class="strip-model"></div>
  <div id="strip-job" class="strip-job" role="status" aria-live="polite"></div>
  <span class="strip-end">
    <button type="button" class="quiet" data-act="help" title="Keyboard shortcuts (?)"
      aria-label="Keyboard shortcuts">?</button>
    <button type="button" class="quiet" data-act="theme" title="Light or dark"
      aria-label="Switch between light and dark">◐</button>
  </span>
</header>
<div id="notice" class="notice" role="alert" hidden></div>
"""


def build() -> None:
    """The strip's frame."""
    gr.HTML(_HTML, elem_id="strip", apply_default_css=False)
