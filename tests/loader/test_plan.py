"""What a load will cost: weights from the headers, caches, and what is said of misfits."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from modules.loader.inspect import TensorInfo
from modules.loader.options import LoadOptions
from modules.loader.plan import Plan, make_plan
from modules.loader.quantization.format import QuantizationFormat
from tests.loader.shapes import GPTQ, LLAMA_2_7B, LLAMA_2_70B, Shape, inspection, machine

PARAMETERS = 6_738_415_616
"""Of Llama-2-7B; those of the linear layers in its blocks are the next."""
LINEAR = 6_476_005_376
PLAIN = PARAMETERS - LINEAR
TINY = Shape("Tiny", 2, 256, 512, 4, 2, head_dim=64, vocabulary=1000, context=8192, tied=True)


def plan_7b(quantization: QuantizationFormat | None = None, **options: Any) -> Plan:
    return make_plan(inspection(LLAMA_2_7B, quantization), LoadOptions(**options), machine(24))


# -- weights ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words", "weights"),
    [
        ({}, "float16", 2 * PARAMETERS),
        ({"dtype": "bfloat16"}, "bfloat16", 2 * PARAMETERS),
        (
            {"quantize": "8bit"},
            "8-bit, quantized while loading",
            2 * PLAIN + LINEAR + 2 * LINEAR // 128,
        ),
        (
            {"quantize": "4bit"},
            "4-bit, quantized while loading",
            2 * PLAIN + LINEAR // 2 + 4 * LINEAR // 64,
        ),
    ],
)
def test_the_bytes_of_llama_2_7b(options: dict[str, Any], words: str, weights: int) -> None:
    plan = plan_7b(**options)
    assert (plan.weights, plan.devices[0].weights) == (words, weights)
    assert plan.fits


def test_float32_needs_twice_as_much() -> None:
    plan = make_plan(inspection(LLAMA_2_7B), LoadOptions(dtype="float32"), machine(48))
    assert plan.devices[0].weights == 4 * PARAMETERS


def test_a_float32_checkpoint_becomes_float16_on_a_card() -> None:
    model = inspection(LLAMA_2_7B, dtype="float32")
    plan = make_plan(model, LoadOptions(), machine(24))
    assert (plan.weights, plan.devices[0].weights) == ("float16", 2 * PARAMETERS)


def test_the_processor_computes_in_float32() -> None:
    plan = make_plan(inspection(LLAMA_2_7B), LoadOptions(device="cpu"), machine(24, ram=64))
    assert (plan.weights, plan.devices[0].device) == ("float32", "cpu")
    assert plan.devices[0].weights == 4 * PARAMETERS


@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_gptq_is_held_packed_with_its_scales_and_what_else_it_needs(
    symmetric: bool, order: bool
) -> None:
    form = dataclasses.replace(GPTQ, symmetric=symmetric, act_order=order)
    scales = 2 * LINEAR // 128 * (1 if symmetric else 2)
    inputs = 32 * (6 * 4096 + 11_008)
    expected = 2 * PLAIN + LINEAR // 2 + scales + (4 * inputs if order else 0)
    assert plan_7b(form).devices[0].weights == expected


def test_gptq_in_words() -> None:
    assert plan_7b(GPTQ).weights == "GPTQ 4-bit, group 128"
    per_row = dataclasses.replace(GPTQ, group_size=-1, act_order=True)
    assert plan_7b(per_row).weights == "GPTQ 4-bit, one group a row, act-order"


def test_a_tied_head_is_counted_once_even_if_the_file_has_it_twice() -> None:
    model = inspection(TINY)
    twice = dict(model.tensors) | {"lm_head.weight": model.tensors["model.embed_tokens.weight"]}
    both = [
        make_plan(m, LoadOptions(), machine(1)).devices[0].weights
        for m in (model, dataclasses.replace(model, tensors=twice))
    ]
    assert both[0] == both[1]


def test_what_transformers_does_not_load_is_not_counted() -> None:
    model = inspection(TINY)
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    more = dict(model.tensors) | {name: TensorInfo("F32", (10**6,), 4 * 10**6, "x")}
    plans = [
        make_plan(m, LoadOptions(), machine(1))
        for m in (model, dataclasses.replace(model, tensors=more))
    ]
    assert plans[0].devices == plans[1].devices


def test_the_experts_of_a_mixture_stay_in_16_bit() -> None:
    model = inspection(TINY)
    name = "model.layers.0.block_sparse_moe.experts.0.w1.weight"
    more = dict(model.tensors) | {name: TensorInfo("F16", (512, 256), 2 * 512 * 256, "x")}
    sizes = [
        make_plan(m, LoadOptions(quantize="4bit"), machine(1)).devices[0].weights
        for m in (model, dataclasses.replace(model, tensors=more))
    ]
    assert sizes[1] - sizes[0] == 2 * 512 * 256


def test_gguf_becomes_plain_weights_under_the_names_of_the_model() -> None:
    form = QuantizationFormat("gguf", 4, -1, version="Q4_0")
    tensors = {
        "token_embd.weight": TensorInfo("Q4_0", (1000, 256), 144_000, "x.gguf"),
        "blk.0.attn_q.weight": TensorInfo("Q4_0", (2048, 256), 294_912, "x.gguf"),
        "blk.1.attn_q.weight": TensorInfo("Q4_0", (2048, 256), 294_912, "x.gguf"),
        "output_norm.weight": TensorInfo("F32", (256,), 1024, "x.gguf"),
    }
    model = inspection(TINY, quantization=form, tensors=tensors)
    options = LoadOptions(device="cpu", context_length=1024, disk=True)
    plan = make_plan(model, options, machine(ram=8))
    assert plan.weights == "GGUF Q4_0, as float32"
    assert plan.devices[0].weights == 4 * (256_000 + 2 * 2048 * 256 + 256)
    # So little that the layers go to the disk.
    room = plan.devices[0].used - 10**6
    spilt = make_plan(model, options, machine(ram=room / 1e9))
    assert spilt.placement["model.layers.0"] == "disk"
    assert spilt.placement["model.embed_tokens"] == "cpu"


# -- caches and the rest ----------------------------------------------------------------


def test_the_cache_is_keys_and_values_for_each_layer_and_token() -> None:
    plan = plan_7b(context_length=1024, cache_tokens=2048)
    assert plan.devices[0].kv_cache == 2 * 32 * 32 * 128 * 2048 * 2


def test_heads_that_share_keys_need_less_cache() -> None:
    plan = make_plan(inspection(LLAMA_2_70B), LoadOptions(cache_tokens=4096), machine(200))
    assert plan.devices[0].kv_cache == 2 * 80 * 8 * 128 * 4096 * 2


def test_loras_are_counted() -> None:
    plan = make_plan(inspection(LLAMA_2_7B), LoadOptions(), machine(24), adapter_bytes=64 * 10**6)
    assert plan.devices[0].adapters == 64 * 10**6


def test_a_card_has_work_to_hold_beside_the_model() -> None:
    device = plan_7b().devices[0]
    assert 0.3e9 < device.workspace < 1.5e9
    assert device.used == device.weights + device.kv_cache + device.workspace


def test_a_longer_context_is_never_cheaper() -> None:
    used = [plan_7b(context_length=n).devices[0].used for n in (256, 1024, 4096)]
    assert used == sorted(set(used))


# -- the context ------------------------------------------------------------------------


def test_without_a_choice_the_models_own_context_is_planned() -> None:
    plan = plan_7b()
    assert (plan.context_length, plan.options.context_length, plan.notes) == (4096, 4096, ())


def test_a_context_that_nobody_chose_shrinks_until_it_fits() -> None:
    long = dataclasses.replace(LLAMA_2_7B, context=131_072)
    plan = make_plan(inspection(long), LoadOptions(offload=True), machine(24))
    assert plan.fits
    assert [device.device for device in plan.devices] == ["cuda:0"]
    assert 4096 < plan.context_length < 131_072
    assert plan.context_length % 256 == 0
    assert f"{plan.context_length:,}" in plan.notes[0]
    asked = LoadOptions(context_length=plan.context_length + 256)
    assert not make_plan(inspection(long), asked, machine(24)).fits


def test_a_context_that_was_chosen_is_refused_rather_than_cut() -> None:
    long = dataclasses.replace(LLAMA_2_7B, context=131_072)
    plan = make_plan(inspection(long), LoadOptions(context_length=131_072), machine(24))
    assert not plan.fits
    assert "131,072 tokens" in plan.message


def test_a_context_beyond_the_models_own_is_passed_over_with_a_note() -> None:
    plan = plan_7b(context_length=8192)
    assert plan.context_length == 4096
    assert "--ctx-size 8192 was passed over" in plan.notes[0]


# -- refusals and choices ---------------------------------------------------------------


def test_a_refusal_has_figures_and_says_what_would_fit() -> None:
    plan = make_plan(inspection(LLAMA_2_7B), LoadOptions(), machine(12))
    assert plan.message == (
        "Llama-2-7B needs 16.8 GB for a context of 4,096 tokens "
        "(weights 13.5, KV cache 2.15, workspace 1.20), and 12.0 GB are free on cuda:0."
    )
    assert plan.remedy.startswith("This would fit: 8-bit weights, or 4-bit weights, or ")


REFUSED = {
    "card": (LLAMA_2_7B, None, machine(12), {}),
    "two cards": (LLAMA_2_7B, None, machine(8, 8), {}),
    "context": (LLAMA_2_7B, None, machine(15.5), {"context_length": 4096}),
    "70B": (LLAMA_2_70B, None, machine(24, 24, ram=32), {}),
    "GPTQ": (LLAMA_2_70B, GPTQ, machine(24, ram=64), {}),
    "limit": (LLAMA_2_7B, None, machine(24), {"gpu_memory": (4 * 2**30,)}),
    "processor": (LLAMA_2_7B, None, machine(ram=24), {}),
    "little": (LLAMA_2_7B, None, machine(4.5, ram=6), {}),
    "cpu limit": (LLAMA_2_7B, None, machine(8), {"offload": True, "cpu_memory": 2**30}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_every_choice_that_is_offered_fits(case: str) -> None:
    shape, quantization, there, fields = REFUSED[case]
    model, options = inspection(shape, quantization), LoadOptions(**fields)
    plan = make_plan(model, options, there)
    assert not plan.fits
    assert plan.choices
    assert len({choice.label for choice in plan.choices}) == len(plan.choices)
    for choice in plan.choices:
        assert make_plan(model, dataclasses.replace(options, **choice.changes), there).fits, choice


def labels(case: str) -> list[str]:
    shape, quantization, there, fields = REFUSED[case]
    plan = make_plan(inspection(shape, quantization), LoadOptions(**fields), there)
    return [choice.label for choice in plan.choices]


def test_a_context_is_offered_where_it_is_enough() -> None:
    assert labels("context")[0].startswith("A context of ")
    assert not any("context" in label for label in labels("card"))


def test_fewer_bits_are_offered_for_16_bit_weights_alone() -> None:
    assert "4-bit weights" in labels("70B")
    assert not any("bit" in label for label in labels("GPTQ"))


def test_offloading_says_how_many_layers() -> None:
    assert "11 of 32 layers in the processor's memory" in labels("card")


def test_a_limit_that_is_in_the_way_is_named() -> None:
    assert labels("limit")[0] == "No limit on the cards"
    assert "No limit on the processor's memory" in labels("cpu limit")


def test_two_changes_are_offered_before_the_disk() -> None:
    first, last = labels("little")[0], labels("little")[-1]
    assert first.startswith("4-bit weights and ")
    assert "on the disk" in last


def test_where_nothing_helps_the_remedy_says_so() -> None:
    plan = make_plan(inspection(LLAMA_2_70B), LoadOptions(), machine(ram=0.5, disk=1))
    assert (plan.fits, plan.choices) == (False, ())
    assert plan.remedy.startswith("Choose a smaller model")


# -- options that do not apply ----------------------------------------------------------

FLAGS = {
    "8bit on GPTQ": (
        GPTQ, {"quantize": "8bit"},
        "Llama-2-7B is stored in 4-bit GPTQ already, so --load-in-8bit was passed over.",
    ),
    "wbits on 16 bit": (
        None, {"wbits": 4}, "Llama-2-7B is not quantized, so --wbits was passed over.",
    ),
    "other wbits": (
        GPTQ, {"wbits": 8, "groupsize": 128},
        "Llama-2-7B says itself that it has 4 bits, so --wbits 8 was passed over.",
    ),
    "other groupsize": (
        GPTQ, {"wbits": 4, "groupsize": 32},
        "Llama-2-7B says itself that its group size is 128, so --groupsize 32 was passed over.",
    ),
    "gptqmodel on 16 bit": (
        None, {"loader": "gptqmodel"},
        "Llama-2-7B is not quantized, so --loader gptqmodel was passed over.",
    ),
    "a limit too many": (
        None, {"gpu_memory": (2**34, 2**34)},
        "There is one card, so the further limits of --gpu-memory were passed over.",
    ),
    "disk while quantizing": (
        None, {"quantize": "4bit", "disk": True, "offload": True},
        "Weights that are quantized while loading cannot lie on the disk, "
        "so --disk was passed over.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FLAGS)
def test_a_flag_that_does_not_apply_is_answered_in_one_line(case: str) -> None:
    quantization, options, note = FLAGS[case]
    plan = plan_7b(quantization, **options)
    assert plan.notes == (note,)
    assert plan.fits
    again = make_plan(inspection(LLAMA_2_7B, quantization), plan.options, machine(24))
    assert again.notes == ()


def test_flags_for_cards_say_so_where_there_is_none() -> None:
    options = LoadOptions(gpu_memory=(2**30,), offload=True, cache_tokens=4096)
    plan = make_plan(inspection(TINY), options, machine(ram=8))
    assert plan.notes == (
        "There is no graphics card, so --auto-devices, --gpu-memory and --cache-tokens "
        "were passed over.",
    )


def test_flags_that_do_apply_are_passed_over_in_silence() -> None:
    assert plan_7b(GPTQ, wbits=4, groupsize=128).notes == ()
    assert plan_7b(quantize="8bit", dtype="bfloat16", offload=True).notes == ()


def test_bfloat16_on_an_old_card_is_remarked_upon() -> None:
    old = machine(16)
    cards = tuple(dataclasses.replace(c, name="T4", capability=(7, 5)) for c in old.cards)
    plan = make_plan(
        inspection(TINY), LoadOptions(dtype="bfloat16"), dataclasses.replace(old, cards=cards)
    )
    assert "T4" in plan.notes[0]


def test_what_the_inspection_guessed_is_told() -> None:
    model = inspection(TINY, note="The group size was guessed.")
    assert make_plan(model, LoadOptions(), machine(8)).notes == ("The group size was guessed.",)
