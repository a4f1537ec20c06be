"""What `SamplingParams` accepts, and that every field describes itself."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest

from modules.engine.params import GROUPS, SamplingParams, knobs
from modules.engine.worker.sampler import PENALTIES, WARPERS
from modules.errors import InvalidInputError

ELSEWHERE = {"do_sample", "max_new_tokens", "stop", "seed", "truncation_length"}


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


def test_every_knob_is_served_by_a_processor_or_known_to_be_served_elsewhere() -> None:
    assert set(knobs()) == {*PENALTIES, *WARPERS} | ELSEWHERE
