"""The Parameters tab: every knob of `SamplingParams`.

The browser keeps the values, so that a reload or a restarted server does not reset them;
the server checks them each time they are used. On wide screens page.css shows the same
widgets beside the chat.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import gradio as gr

from modules.engine.params import SamplingParams, knobs
from modules.ui.components.knobs import Widget, build_widgets, neutral_values, to_widgets

__all__ = ["Components", "bind", "build"]


@dataclass(frozen=True, slots=True)
class Components:
    """The tab's widgets; `widgets` are in the order of the fields."""

    widgets: list[Widget]
    neutralize: gr.Button
    defaults: gr.Button


def build() -> Components:
    """Layout."""
    with gr.Column(elem_id="parameters-panel"):
        with gr.Row(elem_id="parameters-head"):
            gr.HTML(
                '<h2>Parameters</h2><div id="parameter-chips" class="chips"></div>',
                elem_id="parameters-title",
                apply_default_css=False,
            )
            neutralize = gr.Button("Neutralize", size="sm", elem_id="neutralize", min_width=90)
            defaults = gr.Button("Defaults", size="sm", elem_id="defaults", min_width=80)
        with gr.Column(elem_id="parameters-groups"):
            widgets = build_widgets()
    return Components(widgets, neutralize, defaults)


def bind(blocks: gr.Blocks, components: Components) -> None:
    """Events; all of them run in the browser alone."""
    widgets = components.widgets
    facts = json.dumps(
        [
            {"name": name, "label": knob.label, "neutral": neutral}
            for (name, knob), neutral in zip(knobs().items(), neutral_values(), strict=True)
        ]
    )
    kept = f"(...values) => window.lanternParams.keep({facts}, values)"
    gr.on([w.change for w in widgets], None, widgets, None, js=kept, queue=False)
    blocks.load(None, widgets, widgets, js=f"(...values) => window.lanternParams.restore({facts}, "
                "values)", queue=False)  # fmt: skip
    for button, values in (
        (components.neutralize, neutral_values()),
        (components.defaults, to_widgets(SamplingParams())),
    ):
        button.click(None, None, widgets, js=f"() => {json.dumps(values)}", queue=False)
