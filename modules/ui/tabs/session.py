"""The Session tab: its frame. session.js draws it from /page/events and the routes of ours."""

from __future__ import annotations

import gradio as gr

__all__ = ["build"]

_INTERFACE = """
<section id="session-interface" aria-labelledby="session-interface-title">
  <header><h2 id="session-interface-title" tabindex="-1">Interface</h2>
    <p class="soft">Kept in this browser, and in effect at once.</p></header>
  <div id="interface-rows" class="session-rows"></div>
  <div id="interface-end"></div>
</section>
"""

_SETTINGS = """
<section id="session-settings" aria-labelledby="session-settings-title" hidden>
  <header><h2 id="session-settings-title" tabindex="-1">Settings</h2>
    <button type="button" id="restart-button">Restart…</button>
    <p id="settings-about" class="soft"></p></header>
  <div id="settings-pending"></div>
  <div class="session-find">
    <input id="settings-find" type="text" placeholder="Find a setting" autocomplete="off"
      aria-label="Find a setting" spellcheck="false">
    <label><input id="settings-set" type="checkbox"> Only what is set</label>
  </div>
  <div id="settings-rows"></div>
  <div id="settings-bar" class="session-bar" role="status" hidden></div>
</section>
"""

_EXTENSIONS = """
<section id="session-extensions" aria-labelledby="session-extensions-title" hidden>
  <header><h2 id="session-extensions-title" tabindex="-1">Extensions</h2></header>
</section>
"""

_ACCESS = """
<section id="session-access" aria-labelledby="session-access-title" hidden>
  <header><h2 id="session-access-title" tabindex="-1">Access</h2>
    <p id="access-about" class="soft"></p></header>
  <h3 id="access-visitors-title">Connected now</h3>
  <ul id="access-visitors" aria-labelledby="access-visitors-title"></ul>
  <div id="access-logins"></div>
  <div id="access-links"></div>
</section>
"""

_REPORT = """
<section id="session-report" aria-labelledby="session-report-title" hidden>
  <header><h2 id="session-report-title" tabindex="-1">Report</h2>
    <div class="session-acts">
      <button type="button" class="quiet" id="report-refresh">Refresh</button>
      <button type="button" class="primary" id="report-copy">Copy</button></div>
    <p class="soft">Versions, machine, settings and the latest errors, to paste into an issue.
      Keys, passwords, tokens and your user name are left out.</p></header>
  <pre id="report-text" tabindex="0" aria-label="Report"></pre>
</section>
"""

_LOG = """
<section id="session-log" aria-labelledby="session-log-title" hidden>
  <header><h2 id="session-log-title" tabindex="-1">Log</h2>
    <div class="session-acts">
      <label for="log-level">Show</label>
      <select id="log-level">
        <option value="0">everything</option>
        <option value="2">warnings and errors</option>
        <option value="3">errors</option>
      </select>
      <button type="button" id="log-copy">Copy</button></div>
    <p id="log-about" class="soft"></p></header>
  <div id="log-lines" class="log-lines" tabindex="0" role="log" aria-label="Log"></div>
</section>
"""

_FRAME = f"""
<div id="session-tab" class="model-tab session-tab">
  <nav id="session-nav" class="session-nav" aria-label="Parts of the session">
    <button type="button" data-part="interface" aria-current="page">Interface</button>
    <button type="button" data-part="settings" hidden>Settings <span class="soft"></span></button>
    <button type="button" data-part="extensions" hidden>Extensions <span class="soft"></span>
      </button>
    <button type="button" data-part="access" hidden>Access <span class="soft"></span></button>
    <button type="button" data-part="report" hidden>Report</button>
    <button type="button" data-part="log" hidden>Log</button>
  </nav>
  <div id="session-page" class="session-page">
    <p id="session-guest" class="soft" hidden>Settings, access, report and log are for the owner of
      this Lantern.</p>
    {_INTERFACE}{_SETTINGS}{_EXTENSIONS}{_ACCESS}{_REPORT}{_LOG}
  </div>
</div>
"""


def build() -> None:
    """The tab's frame."""
    gr.HTML(_FRAME, elem_id="session-frame", apply_default_css=False)
