"""What `SamplingParams` accepts, and that every field describes itself."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest

from modules.engine.params import GROUPS, SAMPLERS, SamplingParams, knobs
from modules.engine.worker.sampling.chain import PENALTIES, WARPERS
from modules.errors import InvalidInputError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_p", 1.01),
        ("top_k", 1.5),
        ("max_new_tokens", -5),
        ("max_new_tokens", 0),
        ("seed", 2**31),
        ("do_sample", 1),
        ("stop", 3),
        ("stop", ["x"] * 17),
        ("stop", ["x" * 201]),
        ("truncation_length", -1),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        SamplingParams(**{name: value})
    assert caught.value.field == name
    assert caught.value.remedy


def test_a_whole_float_becomes_an_integer() -> None:
    assert SamplingParams(top_k=40.0).top_k == 40  # type: ignore[arg-type]


def test_one_stop_string_needs_no_list_and_empty_ones_are_dropped() -> None:
    assert SamplingParams(stop="END").stop == ("END",)  # type: ignore[arg-type]
    assert SamplingParams(stop=("", "END")).stop == ("END",)


def test_zero_temperature_and_no_sampling_both_mean_greedy() -> None:
    assert SamplingParams(temperature=0).greedy
    assert SamplingParams(do_sample=False).greedy
    assert not SamplingParams().greedy


def test_replace_checks_again() -> None:
    with pytest.raises(InvalidInputError):
        SamplingParams().replace(top_p=2)


def test_parameters_survive_the_way_to_the_worker() -> None:
    params = SamplingParams(stop=("a",), seed=3)
    assert pickle.loads(pickle.dumps(params)) == params


def test_every_knob_is_described_and_its_neutral_value_is_valid() -> None:
    for name, knob in knobs().items():
        assert knob.group in GROUPS, name
        assert knob.label, name
        assert knob.help.endswith("."), name
    SamplingParams.neutral()


def test_every_sampler_has_a_place_in_the_order() -> None:
    assert set(SAMPLERS) == {*PENALTIES, *WARPERS}


def test_the_page_begins_with_four_values_that_are_not_neutral() -> None:
    neutral, default = SamplingParams.neutral(), SamplingParams()
    changed = {name for name in knobs() if getattr(neutral, name) != getattr(default, name)}
    assert changed == {"temperature", "top_p", "top_k", "repetition_penalty"}


def test_an_unknown_sampler_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InvalidInputError, match="temprature") as caught:
        SamplingParams(sampler_priority=("top_k", "temprature"))
    assert caught.value.remedy == "The nearest name is temperature."


@pytest.mark.parametrize("bias", ["5", "5:", "a:1", "5:101", "5:-100.5", "5:nan", "-5:1", "5:1e2"])
def test_a_bias_that_is_none_is_refused_with_an_example(bias: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        SamplingParams(logit_bias=(bias,))
    assert caught.value.field == "logit_bias"
    assert "128001:-2.5" in caught.value.remedy


def test_a_banned_token_is_given_by_its_id() -> None:
    assert SamplingParams(custom_token_bans=("5",)).custom_token_bans == ("5",)
    with pytest.raises(InvalidInputError):
        SamplingParams(custom_token_bans=("the",))
