"""Which methods of decoding go together, and what is said where they do not."""

from __future__ import annotations

from typing import Any

import pytest

from modules.engine.methods import method_of, require_supported
from modules.engine.params import SamplingParams, knobs
from modules.engine.protocol import GenerateRequest
from modules.errors import EngineError, InvalidInputError

METHODS: dict[str, dict[str, Any]] = {
    "guidance_scale": {"guidance_scale": 1.5},
    "penalty_alpha": {"penalty_alpha": 0.6, "top_k": 4},
    "num_beams": {"num_beams": 3},
    "prompt_lookup_num_tokens": {"prompt_lookup_num_tokens": 5},
}
PAIRS = [(a, b) for a in METHODS for b in METHODS if a < b]


def request(**params: Any) -> GenerateRequest:
    return GenerateRequest("a", "", SamplingParams.neutral(**params))


@pytest.mark.parametrize("name", METHODS)
def test_each_method_is_had_by_itself(name: str) -> None:
    assert method_of(request(do_sample=False, **METHODS[name]).params) == name


def test_neutral_values_and_the_defaults_are_plain_sampling() -> None:
    assert method_of(SamplingParams.neutral()) == method_of(SamplingParams()) == ""


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_two_methods_are_refused_with_both_names(first: str, second: str) -> None:
    with pytest.raises(InvalidInputError, match="cannot work together") as caught:
        request(do_sample=False, **METHODS[first], **METHODS[second])
    assert caught.value.field in (first, second)
    assert first in caught.value.remedy
    assert second in caught.value.remedy


@pytest.mark.parametrize("name", ["num_beams", "penalty_alpha"])
def test_a_search_leaves_nothing_to_chance(name: str) -> None:
    with pytest.raises(InvalidInputError, match="nothing to chance") as caught:
        request(**METHODS[name])
    assert caught.value.field == name
    assert request(temperature=0, **METHODS[name])


@pytest.mark.parametrize("top_k", [0, 1, 21, 200])
def test_contrastive_search_needs_a_few_candidates(top_k: int) -> None:
    with pytest.raises(InvalidInputError, match="Contrastive") as caught:
        request(do_sample=False, penalty_alpha=0.6, top_k=top_k)
    assert caught.value.field == "top_k"


def test_what_depends_on_a_method_may_wait_for_it() -> None:
    assert request(negative_prompt="x", length_penalty=2, early_stopping=True)


@pytest.mark.parametrize("name", METHODS)
def test_a_model_that_cannot_serve_a_method_says_so(name: str) -> None:
    params = SamplingParams.neutral(do_sample=False, **METHODS[name])
    with pytest.raises(EngineError, match="does not work with this model") as caught:
        require_supported(params, (name,))
    assert f"({name}) to {knobs()[name].neutral:g}" in caught.value.remedy
    require_supported(params, tuple(other for other in METHODS if other != name))
