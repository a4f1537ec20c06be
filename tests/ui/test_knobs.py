"""Widgets and parameters say the same, in both directions."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import gradio as gr
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.engine.params import GROUPS, Knob, SamplingParams, knobs
from modules.errors import InvalidInputError
from modules.ui.components.knobs import build_widgets, from_widgets, neutral_values, to_widgets

NUMBERS = {name: knob for name, knob in knobs().items() if knob.kind in ("number", "integer")}


def values_with(**changes: Any) -> list[Any]:
    shown = dict(zip(knobs(), to_widgets(SamplingParams()), strict=True))
    return list((shown | changes).values())


def strategy(knob: Knob) -> st.SearchStrategy[Any]:
    match knob.kind:
        case "switch":
            return st.booleans()
        case "strings":
            one = st.text(max_size=20)
            if knob.choices or knob.pattern:
                forms = st.from_regex(knob.pattern, fullmatch=True)
                one = st.sampled_from(knob.choices) if knob.choices else forms
            return st.lists(one, max_size=min(int(knob.maximum), 20)).map(tuple)
        case "choice":
            return st.sampled_from(knob.choices)
        case "text":
            return st.text(max_size=20)
        case "integer":
            return st.integers(int(knob.minimum), int(knob.maximum))
        case _:
            return st.floats(knob.minimum, knob.maximum)


PARAMS = st.builds(SamplingParams, **{name: strategy(knob) for name, knob in knobs().items()})


@settings(derandomize=True, deadline=None, max_examples=300)
@given(PARAMS)
def test_parameters_come_back_from_the_widgets_as_they_were(params: SamplingParams) -> None:
    assert from_widgets(to_widgets(params)) == params


@pytest.mark.parametrize(
    "stop",
    ["\n", "\n\n", "\\", "\\n", "\\\\n", "\\\n", "\n\\", "\t", "\\t", "\r", "\r\n", "\x0c", "\x85",
     "\u2028", " ", "User:", "</s>", "\\\\"],
)  # fmt: skip
def test_a_stop_string_comes_back_as_it_was(stop: str) -> None:
    params = SamplingParams(stop=(stop, "END"))
    assert from_widgets(to_widgets(params)).stop == (stop, "END")


@pytest.mark.parametrize("typed", ["a\nb", "a\r\nb", "\na\n\n\nb\n"])
def test_stop_strings_are_typed_one_a_line(typed: str) -> None:
    assert from_widgets(values_with(stop=typed)).stop == ("a", "b")


def test_a_typed_backslash_n_is_a_line_break() -> None:
    assert from_widgets(values_with(stop="\\nUser:")).stop == ("\nUser:",)


@pytest.mark.parametrize("name", list(knobs()))
def test_every_knob_explains_itself(name: str) -> None:
    knob = knobs()[name]
    assert knob.label
    assert knob.help.endswith(".")
    assert knob.group in GROUPS
    assert SamplingParams(**{name: knob.neutral})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("way", [-1, 1])
def test_a_number_out_of_its_bounds_is_refused_by_name(name: str, way: int) -> None:
    knob = NUMBERS[name]
    for value in (knob.minimum - 1 if way < 0 else knob.maximum + 1, way * 10**30, way * math.inf):
        with pytest.raises(InvalidInputError, match=name) as caught:
            from_widgets(values_with(**{name: value}))
        assert caught.value.field == name
        assert caught.value.remedy


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["1", "", [], {}, True, math.nan, -math.inf])
def test_what_is_no_number_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=name):
        from_widgets(values_with(**{name: value}))


@pytest.mark.parametrize("name", [n for n, knob in NUMBERS.items() if knob.kind == "integer"])
def test_half_a_token_is_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match="whole number"):
        from_widgets(values_with(**{name: 1.5}))


@pytest.mark.parametrize("value", [0, 1, "true", "on", [], 0.0])
def test_what_is_no_switch_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInputError, match="do_sample"):
        from_widgets(values_with(do_sample=value))


@pytest.mark.parametrize(
    "stop", [7, {"a": 1}, [1], [["x"]], "\n".join(map(str, range(17))), "x" * 201, ["\n"] * 17]
)
def test_stop_strings_that_are_none_are_refused(stop: Any) -> None:
    with pytest.raises(InvalidInputError, match="stop"):
        from_widgets(values_with(stop=stop))


def test_an_emptied_widget_is_neutral() -> None:
    assert from_widgets([None] * len(knobs())) == SamplingParams.neutral()
    assert from_widgets(neutral_values()) == SamplingParams.neutral()


@pytest.mark.parametrize("count", [0, len(knobs()) - 1, len(knobs()) + 1])
def test_a_page_of_another_version_is_told_to_reload(count: int) -> None:
    with pytest.raises(InvalidInputError, match="Reload the page"):
        from_widgets([None] * count)


def test_there_is_one_widget_for_each_parameter() -> None:
    with gr.Blocks():
        widgets = build_widgets()
    assert [w.label for w in widgets] == [knob.label for knob in knobs().values()]
    names = [field.name for field in dataclasses.fields(SamplingParams)]
    assert [w.elem_id for w in widgets] == [f"knob-{name}" for name in names]


def test_the_widgets_begin_with_the_defaults() -> None:
    with gr.Blocks():
        values = [widget.value for widget in build_widgets()]
    assert from_widgets(values) == SamplingParams()
