"""The Parameters tab: presets, and every knob of `SamplingParams`.

The browser keeps the values, so that a reload or a restarted server does not reset them;
the server checks them each time they are used. On wide screens page.css shows the same
widgets beside the chat. What folds the groups is params.js, and presets.js is what fills
and runs the head; values that they set go through one unseen button, because only an event
of gradio's can set its widgets.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import gradio as gr

from modules.engine.params import SamplingParams, knobs
from modules.engine.presets import in_presets
from modules.ui.components.knobs import Widget, build_widgets, neutral_values, to_widgets

__all__ = ["Components", "bind", "build", "facts"]

_HEAD = """
<h2>Parameters</h2>
<div class="presets">
  <label for="preset">Preset</label>
  <select id="preset"></select>
  <span id="preset-changed" class="soft" hidden>changed</span>
  <button type="button" class="quiet" id="preset-restore" hidden
    title="Back to the values of the preset">Restore</button>
  <button type="button" class="quiet" id="preset-save" hidden
    title="Keep these values as a preset">Save…</button>
  <button type="button" class="quiet" id="preset-delete" hidden>Delete</button>
  <span class="presets-end">
    <button type="button" class="quiet" id="neutralize"
      title="Choose among the tokens as the model gives them">Neutralize</button>
    <button type="button" class="quiet" id="defaults"
      title="Set every knob to what Lantern starts with">Defaults</button>
  </span>
</div>
<label id="preset-filter" class="soft" hidden><input type="checkbox" id="preset-all"> List presets
  that the loaded model cannot serve</label>
<p id="preset-about" class="soft" role="status"></p>
<div id="parameter-chips" class="chips" role="group" aria-label="What differs from neutral"></div>
"""

_CHART = """
<section class="next-token" aria-labelledby="next-token-title">
  <header>
    <h3 id="next-token-title">Next token</h3>
    <select id="next-source" aria-label="What the chart is about">
      <option value="chat">in this chat</option>
      <option value="notebook">in the notebook</option>
      <option value="sentence">of a sentence</option>
    </select>
  </header>
  <input id="next-sentence" type="text" maxlength="2000" aria-label="The sentence" hidden>
  <p id="next-token-about" class="soft"></p>
  <div id="next-token-chart" class="logits-view"></div>
</section>
"""


@dataclass(frozen=True, slots=True)
class Components:
    """The tab's widgets, in the order of the fields, and the button that sets them all."""

    widgets: list[Widget]
    apply: gr.Button


def build(below: Callable[[], None] = lambda: None) -> Components:
    """Layout; `below` builds what comes after the groups of knobs."""
    with gr.Column(elem_id="parameters-panel"):
        gr.HTML(_HEAD, elem_id="parameters-head", apply_default_css=False)
        apply = gr.Button("Apply", elem_id="parameters-apply", visible="hidden")
        with gr.Column(elem_id="parameters-groups"):
            widgets = build_widgets()
            below()
        gr.HTML(_CHART, elem_id="next-token", apply_default_css=False)
    return Components(widgets, apply)


def bind(blocks: gr.Blocks, components: Components) -> None:
    """Events; all of them run in the browser alone."""
    widgets = components.widgets
    blocks.load(None, None, widgets, js="() => window.lanternParams.restore()", queue=False)
    kept = "(...values) => window.lanternParams.keep(values)"
    gr.on([w.change for w in widgets], None, widgets, None, js=kept, queue=False)
    components.apply.click(
        None, None, widgets, js="() => window.lanternParams.waiting", queue=False
    )


def facts() -> str:
    """What params.js knows of each knob, in the order of the widgets: an element of the head."""
    ours = set(in_presets())
    neutral, defaults = neutral_values(), to_widgets(SamplingParams())
    told = json.dumps(
        [
            {
                "name": name,
                "label": knob.label,
                "group": knob.group,
                "neutral": neutral[place],
                "default": defaults[place],
                "preset": name in ours,
            }
            for place, (name, knob) in enumerate(knobs().items())
        ]
    )
    return f'<script type="application/json" id="knob-facts">{told}</script>'
