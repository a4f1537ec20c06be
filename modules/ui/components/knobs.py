"""Widgets for `SamplingParams`, made from the metadata of its fields."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import gradio as gr

from modules.engine.params import GROUPS, Knob, SamplingParams, knobs
from modules.errors import InvalidInputError

__all__ = ["Widget", "build_widgets", "from_widgets", "neutral_values", "to_widgets"]

_SIGNS = (("\\", "\\\\"), ("\n", "\\n"), ("\t", "\\t"), ("\r", "\\r"))
"""How a line of the stop strings spells what a text box cannot hold."""

Widget = gr.Slider | gr.Number | gr.Checkbox | gr.Textbox | gr.Dropdown


def build_widgets() -> list[Widget]:
    """One widget a field, under the heads of their groups, in the order of the fields."""
    defaults = SamplingParams()
    built: dict[str, Widget] = {}
    for group in GROUPS:
        members = {name: knob for name, knob in knobs().items() if knob.group == group}
        with gr.Column(elem_classes="knob-group"):
            gr.HTML(f"<h3>{group}</h3>", elem_classes="knob-head", apply_default_css=False)
            for name, knob in members.items():
                built[name] = _widget(name, knob, getattr(defaults, name))
    return [built[name] for name in knobs()]


def from_widgets(values: Sequence[Any]) -> SamplingParams:
    """The parameters that the widgets show. Raises InvalidInputError."""
    fields = knobs()
    if len(values) != len(fields):
        raise InvalidInputError("The page is older than the server.", "Reload the page.")
    given = {}
    for (name, knob), value in zip(fields.items(), values, strict=True):
        if knob.kind == "strings" and isinstance(value, str):
            # Not splitlines(), which also breaks at form feeds and the like.
            value = [_unescaped(line) for line in re.split("\r?\n", value) if line]
        if value is None:
            value = knob.neutral
        given[name] = value
    return SamplingParams(**given)


def to_widgets(params: SamplingParams) -> list[Any]:
    """What the widgets show for `params`."""
    values = dataclasses.asdict(params)
    return [
        "\n".join(map(_escaped, values[name])) if knob.kind == "strings" else values[name]
        for name, knob in knobs().items()
    ]


def neutral_values() -> list[Any]:
    """What the widgets show when nothing is altered."""
    return to_widgets(SamplingParams.neutral())


def _widget(name: str, knob: Knob, value: Any) -> Widget:
    about: dict[str, Any] = {"label": knob.label, "info": knob.help, "elem_id": f"knob-{name}"}
    match knob.kind:
        case "switch":
            return gr.Checkbox(value, **about)
        case "strings":
            return gr.Textbox(value="\n".join(map(_escaped, value)), lines=2, max_lines=6, **about)
        case "text":
            example = knob.example
            return gr.Textbox(value=value, lines=2, max_lines=12, placeholder=example, **about)
        case "choice":
            return gr.Dropdown(list(knob.choices), value=value, **about)
        case "integer" if knob.maximum >= 2**31 - 1:
            return gr.Number(value, precision=0, minimum=int(knob.minimum), **about)
        case _:
            return gr.Slider(knob.minimum, knob.maximum, value, step=knob.step, buttons=[], **about)


def _escaped(text: str) -> str:
    for character, sign in _SIGNS:
        text = text.replace(character, sign)
    return text


def _unescaped(text: str) -> str:
    pieces = text.split("\\\\")
    for character, sign in _SIGNS[1:]:
        pieces = [piece.replace(sign, character) for piece in pieces]
    return "\\".join(pieces)
