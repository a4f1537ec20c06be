"""Which layer goes to which device."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from modules.loader.machine import Machine
from modules.loader.options import LoadOptions
from modules.loader.placement import Cost, fill, spread
from modules.loader.plan import Plan, make_plan
from tests.loader.shapes import GPTQ, LLAMA_2_7B, LLAMA_2_70B, inspection, machine


def devices_in_order(plan: Plan) -> list[str]:
    """The device of the embedding, of each layer in order, and of the head."""
    layers = [f"model.layers.{n}" for n in range(1000) if f"model.layers.{n}" in plan.placement]
    return [plan.placement[name] for name in ("model.embed_tokens", *layers, "lm_head")]


def assert_sound(plan: Plan) -> None:
    """Everything has a place, in one run for each device, and each device holds it."""
    order = devices_in_order(plan)
    changes = sum(a != b for a, b in itertools.pairwise(order))
    assert changes == len(set(order)) - 1
    assert all(device.used <= device.capacity for device in plan.devices)
    assert plan.fits


# -- the cards --------------------------------------------------------------------------


@pytest.mark.parametrize("there", [machine(24), machine(24, 24), machine(ram=64)])
def test_where_one_device_is_enough_nothing_is_placed(there: Machine) -> None:
    plan = make_plan(inspection(LLAMA_2_7B), LoadOptions(), there)
    assert (plan.placement, len(plan.devices)) == ({}, 1)


def test_a_card_that_is_in_use_is_left_alone() -> None:
    plan = make_plan(inspection(LLAMA_2_7B), LoadOptions(), machine(2, 24))
    assert plan.placement == {"": "cuda:1"}
    assert [device.device for device in plan.devices] == ["cuda:1"]


def test_several_cards_are_filled_evenly() -> None:
    plan = make_plan(inspection(LLAMA_2_70B), LoadOptions(), machine(48, 48, 48, 48))
    assert_sound(plan)
    layers = Counter(devices_in_order(plan))
    assert max(layers.values()) - min(layers.values()) <= 2


def test_limits_bound_each_card() -> None:
    limits = (6 * 2**30, 20 * 2**30)
    plan = make_plan(inspection(LLAMA_2_7B), LoadOptions(gpu_memory=limits), machine(12, 12))
    assert_sound(plan)
    assert plan.devices[0].used <= limits[0] < plan.devices[1].used


def test_cards_without_a_limit_of_their_own_have_none() -> None:
    plan = make_plan(inspection(LLAMA_2_7B), LoadOptions(gpu_memory=(6 * 2**30,)), machine(24, 24))
    assert plan.placement == {"": "cuda:1"}


# -- the processor and the disk ---------------------------------------------------------


def test_a_70b_model_over_two_cards_and_the_processor() -> None:
    model = inspection(LLAMA_2_70B)
    plan = make_plan(model, LoadOptions(offload=True), machine(48, 48, ram=128))
    assert_sound(plan)
    assert [device.device for device in plan.devices] == ["cuda:0", "cuda:1", "cpu"]
    assert sum(device.weights for device in plan.devices) == model.size_bytes
    assert plan.devices[0].weights > 40e9
    assert plan.devices[2].kv_cache == 0


def test_a_70b_gptq_model_over_two_cards_needs_no_processor() -> None:
    plan = make_plan(inspection(LLAMA_2_70B, GPTQ), LoadOptions(offload=True), machine(24, 24))
    assert_sound(plan)
    assert [device.device for device in plan.devices] == ["cuda:0", "cuda:1"]


def test_the_first_card_keeps_the_cache_of_what_it_computes_for_the_processor() -> None:
    model = inspection(LLAMA_2_7B)
    plan = make_plan(model, LoadOptions(offload=True), machine(12))
    assert_sound(plan)
    assert plan.devices[0].kv_cache == 2 * 32 * 32 * 128 * 4096 * 2
    spread_out = make_plan(model, LoadOptions(), machine(12, 12))
    assert plan.devices[0].workspace > spread_out.devices[0].workspace


def test_the_disk_takes_what_the_processor_cannot() -> None:
    options = LoadOptions(offload=True, disk=True, cpu_memory=4 * 2**30)
    plan = make_plan(inspection(LLAMA_2_7B), options, machine(8))
    assert_sound(plan)
    assert [device.device for device in plan.devices] == ["cuda:0", "cpu", "disk"]
    assert plan.devices[1].weights <= 4 * 2**30


def test_the_processor_alone_can_use_the_disk() -> None:
    plan = make_plan(inspection(LLAMA_2_7B), LoadOptions(disk=True), machine(ram=16))
    assert_sound(plan)
    assert [device.device for device in plan.devices] == ["cpu", "disk"]


def test_the_disk_has_an_end_too() -> None:
    plan = make_plan(inspection(LLAMA_2_7B), LoadOptions(disk=True), machine(ram=16, disk=2))
    assert not plan.fits


def test_modules_without_weights_have_a_place() -> None:
    plan = make_plan(inspection(LLAMA_2_7B), LoadOptions(offload=True), machine(12))
    assert plan.placement["model.rotary_emb"] == "cuda:0"
    assert plan.placement["model.norm"] == plan.placement["lm_head"]


def test_a_tied_head_lies_with_the_embedding() -> None:
    model = inspection(LLAMA_2_7B, tied_head=True)
    plan = make_plan(model, LoadOptions(offload=True), machine(12))
    assert plan.placement["lm_head"] == plan.placement["model.embed_tokens"] == "cuda:0"
    assert plan.placement["model.norm"] == "cpu"


# -- the rules by themselves ------------------------------------------------------------

UNITS = [Cost(4, 1, 4)] * 6


@pytest.mark.parametrize(
    ("rooms", "places"),
    [
        ([30], [0, 0, 0, 0, 0, 0]),
        ([30, 30], [0, 0, 0, 1, 1, 1]),
        ([30, 30, 30], [0, 0, 1, 1, 2, 2]),
        ([10, 30], [0, 0, 1, 1, 1, 1]),
        ([30, 10], [0, 0, 0, 0, 1, 1]),
        ([14, 14], None),
        ([0, 30], [1, 1, 1, 1, 1, 1]),
    ],
)
def test_units_are_spread_in_order(rooms: list[int], places: list[int] | None) -> None:
    assert spread(UNITS, rooms) == places


@pytest.mark.parametrize(
    ("rooms", "stores", "places"),
    [
        # two units, the caches of four more, and one piece: 10 + 4 + 4
        ([18], [100], [0, 0, 1, 1, 1, 1]),
        ([17], [100], [0, 1, 1, 1, 1, 1]),
        ([18], [8, 100], [0, 0, 1, 1, 2, 2]),
        ([18], [8, 4], None),
        ([9], [100], None),
    ],
)
def test_what_is_over_goes_to_the_stores(
    rooms: list[int], stores: list[int], places: list[int] | None
) -> None:
    assert fill(UNITS, rooms, stores) == places
