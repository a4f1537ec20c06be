"""The KV cache of the fast runner: fixed by the plan, and the first thing to give way."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from modules.loader.options import LoadOptions
from modules.loader.plan import DevicePlan, Plan, make_plan
from modules.loader.quantization.format import QuantizationFormat
from tests.loader.shapes import GPTQ, LLAMA_2_7B, LLAMA_2_70B, inspection, machine

TOKEN = 2 * 32 * 32 * 128 * 2
"""Bytes that a token of Llama-2-7B takes in the cache in 16 bits."""
LONG = dataclasses.replace(LLAMA_2_7B, context=32_768)


def plan_7b(card: float, form: QuantizationFormat | None = GPTQ, **options: Any) -> Plan:
    return make_plan(inspection(LLAMA_2_7B, form), LoadOptions(**options), machine(card))


def only_device(plan: Plan) -> DevicePlan:
    (device,) = plan.devices
    return device


# -- without a wish ---------------------------------------------------------------------


def test_a_large_card_has_room_for_twelve_contexts() -> None:
    plan = plan_7b(80)
    assert plan.cache_tokens == 12 * 4096
    assert only_device(plan).kv_cache == 12 * 4096 * TOKEN


def test_half_of_what_is_left_beside_one_context_stays_free() -> None:
    plan, device = plan_7b(24), only_device(plan_7b(24))
    more = device.kv_cache - 4096 * TOKEN
    free = device.capacity - device.used
    assert 4096 < plan.cache_tokens < 8 * 4096
    assert 0 <= free - more <= 2 * 256 * TOKEN


@pytest.mark.parametrize("card", [8, 7.7, 12, 16, 24, 48, 80])
def test_the_plan_counts_what_it_hands_to_the_worker(card: float) -> None:
    plan = plan_7b(card)
    assert plan.cache_tokens >= plan.context_length
    assert only_device(plan).kv_cache == plan.cache_tokens * TOKEN
    assert only_device(plan).used <= only_device(plan).capacity


def test_loras_come_before_a_larger_cache() -> None:
    model, options = inspection(LLAMA_2_7B, GPTQ), LoadOptions()
    plain, with_loras = (
        make_plan(model, options, machine(24), adapter_bytes=size) for size in (0, 10**9)
    )
    assert with_loras.cache_tokens < plain.cache_tokens


def test_a_limit_on_the_card_limits_the_cache() -> None:
    limited = plan_7b(80, gpu_memory=(10 * 2**30,))
    assert limited.cache_tokens < plan_7b(80).cache_tokens
    assert only_device(limited).used <= 10 * 2**30


# -- what is decided with one context ---------------------------------------------------


def test_the_larger_cache_shrinks_to_nothing_before_anything_is_refused() -> None:
    least = plan_7b(80, cache_tokens=1)
    tight = plan_7b(only_device(least).used / 1e9 + 0.001)
    assert tight.fits
    assert tight.cache_tokens == tight.context_length == 4096


def test_a_context_that_nobody_chose_comes_before_a_larger_cache() -> None:
    plan = make_plan(inspection(LONG, GPTQ), LoadOptions(), machine(16))
    assert 4096 < plan.context_length < 32_768
    assert plan.cache_tokens - plan.context_length <= 256


def test_a_refusal_counts_one_context() -> None:
    plan = plan_7b(4, cache_tokens=100_000)
    assert (plan.fits, plan.cache_tokens) == (False, 0)
    assert sum(device.kv_cache for device in plan.devices) == 4096 * TOKEN


# -- a wish -----------------------------------------------------------------------------


def test_a_wish_is_kept_though_it_leaves_less_than_half_free() -> None:
    plan = plan_7b(24, cache_tokens=32_768)
    assert (plan.cache_tokens, plan.notes) == (32_768, ())
    assert plan.options.cache_tokens == 32_768


def test_a_wish_below_one_context_is_for_one() -> None:
    plan = plan_7b(80, cache_tokens=256)
    assert (plan.cache_tokens, plan.notes) == (4096, ())


def test_a_wish_that_the_memory_is_not_enough_for_is_answered() -> None:
    plan = plan_7b(12, cache_tokens=100_000)
    assert plan.fits
    assert plan.notes == (
        f"The memory is enough for a KV cache of {plan.cache_tokens:,} tokens, and not for the "
        "100,000 of --cache-tokens.",
    )
    assert 4096 < plan.cache_tokens < 100_000


def test_a_plan_leaves_the_wish_as_it_was_for_the_next_load() -> None:
    plan = plan_7b(80)
    again = make_plan(inspection(LLAMA_2_7B, GPTQ), plan.options, machine(24))
    assert (plan.options.cache_tokens, again.notes) == (0, ())
    assert again.cache_tokens < plan.cache_tokens


# -- in 8 bits --------------------------------------------------------------------------

TOKEN8 = 2 * 32 * 32 * (128 + 4)
"""The same in 8 bits: a code for each number, and a scale for each head."""


def test_a_cache_in_8_bits_takes_half_and_has_a_scale_for_each_head() -> None:
    plan = plan_7b(80, cache_type="8-bit")
    assert (plan.options.cache_type, plan.notes) == ("8-bit", ())
    assert only_device(plan).kv_cache == 12 * 4096 * TOKEN8


def test_where_memory_is_short_8_bits_leave_room_for_nearly_twice_as_many_tokens() -> None:
    model = inspection(LONG, GPTQ)
    wide, narrow = (
        make_plan(model, LoadOptions(cache_type=kind), machine(12)).context_length
        for kind in ("16-bit", "8-bit")
    )
    assert 1.7 * wide < narrow <= 2 * wide


def test_8_bits_are_offered_where_they_make_it_fit() -> None:
    needed = only_device(plan_7b(80, context_length=4096, cache_tokens=1)).used / 1e9
    plan = plan_7b(needed - 0.5, context_length=4096)
    (choice,) = (choice for choice in plan.choices if "cache_type" in choice.changes)
    assert choice.label == "A KV cache in 8 bits"
    assert plan_7b(needed - 0.5, context_length=4096, **choice.changes).fits


def test_other_ways_are_offered_where_8_bits_are_not_enough() -> None:
    plan = plan_7b(12, None, cache_type="8-bit", context_length=4096)
    changes = [choice.changes for choice in plan.choices]
    assert {"offload": True} in changes
    assert not any("cache_type" in change for change in changes)


def test_8_bits_are_not_offered_where_they_would_be_passed_over() -> None:
    model = dataclasses.replace(inspection(LLAMA_2_70B), window=1024)
    choices = make_plan(model, LoadOptions(context_length=4096), machine(24)).choices
    assert choices
    assert not any("cache_type" in choice.changes for choice in choices)


def test_the_processor_has_a_cache_in_8_bits_too() -> None:
    caches = [
        only_device(plan_7b(80, device="cpu", context_length=4096, cache_type=kind)).kv_cache
        for kind in ("16-bit", "8-bit")
    ]
    assert caches == [4096 * 2 * TOKEN, 4096 * TOKEN8]


def test_what_was_dequantized_of_a_cache_in_8_bits_is_gathered_beside_it() -> None:
    more = workspace(cache_type="8-bit") - workspace()
    assert more == 32_768 * 32 * (128 + 4)


# -- where there is no such cache -------------------------------------------------------

ELSEWHERE = {
    "other families": (inspection(LLAMA_2_7B, model_type="gpt_neox"), machine(80), {}),
    "several cards": (inspection(LLAMA_2_70B), machine(80, 80), {}),
    "offloaded": (inspection(LLAMA_2_7B), machine(12), {"offload": True}),
    "a window shorter than the context": (
        inspection(LLAMA_2_7B, model_type="mistral", window=1024), machine(80), {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ELSEWHERE)
def test_other_runners_have_no_such_cache_and_one_context_is_counted(case: str) -> None:
    model, there, fields = ELSEWHERE[case]
    plan = make_plan(model, LoadOptions(**fields), there)
    token = 2 * model.layers * model.kv_heads * model.head_dim * 2
    assert (plan.fits, plan.cache_tokens) == (True, 0)
    assert sum(device.kv_cache for device in plan.devices) == 4096 * token


@pytest.mark.parametrize("case", ELSEWHERE)
def test_a_wish_that_means_nothing_there_is_passed_over_with_a_note(case: str) -> None:
    model, there, fields = ELSEWHERE[case]
    plan = make_plan(model, LoadOptions(cache_tokens=8192, **fields), there)
    assert plan.notes == (
        f"The KV caches of {model.name} grow with its chats, so --cache-tokens was passed over.",
    )
    assert make_plan(model, plan.options, there).notes == ()


@pytest.mark.parametrize("case", ELSEWHERE)
def test_8_bits_are_passed_over_with_a_note_where_another_runner_computes(case: str) -> None:
    model, there, fields = ELSEWHERE[case]
    plan = make_plan(model, LoadOptions(cache_type="8-bit", **fields), there)
    assert plan.notes == (
        f"{model.name} is not computed by the fast runner, which alone has a KV cache in 8 bits, "
        "so --cache-type was passed over.",
    )
    plain = make_plan(model, LoadOptions(**fields), there)
    assert (plan.options, plan.devices) == (plain.options, plain.devices)


def test_the_processor_has_no_such_cache() -> None:
    plan = make_plan(inspection(LLAMA_2_7B, GPTQ), LoadOptions(device="cpu"), machine(80))
    assert (plan.fits, plan.cache_tokens) == (True, 0)


# -- the workspace ----------------------------------------------------------------------


def workspace(form: QuantizationFormat | None = None, **options: Any) -> int:
    plan = make_plan(inspection(LONG, form), LoadOptions(**options), machine(80))
    assert plan.cache_tokens
    return only_device(plan).workspace


def test_a_quantized_model_has_its_largest_product_dequantized_at_a_time() -> None:
    assert workspace(GPTQ) - workspace() == 2 * 11_008 * 4096 * 2


def test_a_longer_context_is_gathered_for_one_layer_at_a_time() -> None:
    keys_and_values, angles, tables = 2 * 32 * 128 * 2, 128 * 4, 32 * 4 // 16
    more = workspace(context_length=8192) - workspace(context_length=4096)
    assert more == 4096 * (keys_and_values + angles + tables)


def test_a_context_below_a_chunk_has_smaller_chunks() -> None:
    more = workspace(context_length=2048) - workspace(context_length=1024)
    assert more > 2 * (workspace(context_length=3072) - workspace(context_length=2048))


def test_the_fast_runner_has_a_workspace_of_its_own_on_one_card_alone() -> None:
    there, model = machine(80), inspection(LLAMA_2_7B)
    fast = make_plan(model, LoadOptions(), there)
    other = make_plan(dataclasses.replace(model, model_type="gpt_neox"), LoadOptions(), there)
    spread_out = make_plan(model, LoadOptions(), machine(9, 9))
    assert only_device(fast).workspace > only_device(other).workspace
    assert {device.workspace for device in spread_out.devices} == {only_device(other).workspace}


def test_one_card_that_is_not_enough_is_not_made_enough_by_another_runner() -> None:
    needed = only_device(plan_7b(80, None, cache_tokens=1)).used / 1e9
    assert not plan_7b(needed - 0.01, None, context_length=4096).fits
