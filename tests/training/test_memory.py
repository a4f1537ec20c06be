"""The memory plan: its terms, its choices, and what is said where nothing fits.

Bytes that were measured are held against it in `trainer/test_memory.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modules.loader.inspect import Inspection
from modules.training.aside import needs_room
from modules.training.config import TrainingConfig
from modules.training.memory import TrainingPlan, Workload, make_training_plan
from tests.folders import TINY, put_llama
from tests.loader.shapes import GPTQ, LLAMA_2_7B, inspection, machine

PARAMETERS = 6_738_415_616
SEVEN_PROJECTIONS = 32 * 16 * (4 * 8192 + 3 * (4096 + 11_008))


def plan(gigabytes: float, about: Inspection | None = None, **config: Any) -> TrainingPlan:
    about = about or inspection(LLAMA_2_7B)
    return make_training_plan(TrainingConfig(**config), about, machine(gigabytes))


def test_the_parameters_of_a_lora_over_llama_2_7b() -> None:
    assert plan(80).parameters == SEVEN_PROJECTIONS == 39_976_960
    assert plan(80, target_modules=("q and v",), lora_r=8).parameters == 32 * 2 * 8 * 8192
    whole = plan(80, train_embeddings=True, train_head=True).parameters
    assert whole == SEVEN_PROJECTIONS + 2 * 32_000 * 4096


def test_a_quantized_base_has_as_many_parameters_as_its_twin() -> None:
    assert plan(80, inspection(LLAMA_2_7B, GPTQ)).parameters == SEVEN_PROJECTIONS


def test_the_base_the_lora_and_the_optimizer_are_counted_by_their_bytes() -> None:
    found = plan(80)
    assert found.base == 2 * PARAMETERS
    assert found.lora == found.gradients == 4 * SEVEN_PROJECTIONS
    assert found.optimizer == 8 * SEVEN_PROJECTIONS
    assert plan(80, optimizer="adamw_8bit").optimizer == 2 * SEVEN_PROJECTIONS
    assert found.used == sum(size for _, size in found.parts)


def test_a_quantized_base_is_dequantized_once_where_it_fits_and_else_by_layer() -> None:
    about = inspection(LLAMA_2_7B, GPTQ)
    large, small = plan(24, about), plan(10, about)
    assert (large.once, large.base) == (True, 2 * PARAMETERS)
    assert not small.once and small.base < PARAMETERS * 0.6
    assert large.fits and small.fits
    assert "once" in large.notes[0] and "layer by layer" in small.notes[0]
    assert not plan(24, about, dequantize="by layer").once


def test_a_base_that_is_quantized_to_save_memory_stays_so() -> None:
    assert not plan(80, load_in="4bit").once


def test_more_is_computed_at_once_where_there_is_room() -> None:
    sizes = [plan(gigabytes).micro_batch_size for gigabytes in (20, 24, 80)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    assert plan(80, cutoff_len=8192).micro_batch_size == 1
    assert plan(80, micro_batch_size=3).micro_batch_size == 3


def test_little_data_still_makes_several_steps() -> None:
    about, config = inspection(LLAMA_2_7B), TrainingConfig()
    found = make_training_plan(config, about, machine(80), Workload(1024, 24))
    assert found.micro_batch_size == 3


def test_layers_are_computed_twice_only_as_far_as_memory_is_short() -> None:
    assert not plan(80, cutoff_len=4096).checkpointing
    short = plan(20, cutoff_len=4096)
    assert short.fits and short.checkpointing
    assert 0 < short.kept_layers < 32
    assert short.activations < plan(80, cutoff_len=4096, micro_batch_size=1).activations
    assert plan(20, cutoff_len=4096, gradient_checkpointing="on").kept_layers == 0
    assert not plan(20, cutoff_len=4096, gradient_checkpointing="off").fits


def test_what_does_not_fit_says_what_would() -> None:
    found = plan(10)
    assert not found.fits
    assert found.message.startswith("Training on Llama-2-7B needs")
    assert "10.0 GB are free on cuda:0" in found.message
    assert "a base in 8 bits" in found.remedy
    assert plan(1).remedy.startswith("Choose a smaller base")


def test_the_chat_model_steps_aside_where_only_one_fits() -> None:
    about, config = inspection(LLAMA_2_7B), TrainingConfig()

    def steps_aside(free: float) -> tuple[bool, bool]:
        found = make_training_plan(config, about, machine(free), without_chat=machine(24))
        told = "steps aside and comes back" in " ".join(found.notes)
        assert told == found.steps_aside
        return found.fits, found.steps_aside

    assert steps_aside(20) == (True, False)
    assert steps_aside(9) == (True, True)


def test_a_run_that_fits_neither_way_moves_nobody() -> None:
    about = inspection(LLAMA_2_7B)
    found = make_training_plan(TrainingConfig(), about, machine(4), without_chat=machine(10))
    assert (found.fits, found.steps_aside) == (False, False)


def test_the_queue_asks_about_the_base_in_the_models_folder(tmp_path: Path) -> None:
    put_llama(tmp_path, "Tiny", TINY)
    config = TrainingConfig(base="Tiny")
    assert needs_room(tmp_path, lambda: machine(0.5), lambda: machine(4))(config)
    assert not needs_room(tmp_path, lambda: machine(4), lambda: machine(4))(config)
    missing = TrainingConfig(base="not-there-yet")
    assert not needs_room(tmp_path, lambda: machine(0.5), lambda: machine(4))(missing)


@pytest.mark.parametrize("precision", ["automatic", "fp32"])
def test_the_processor_computes_in_32_bits(precision: str) -> None:
    about = inspection(LLAMA_2_7B)
    found = make_training_plan(TrainingConfig(precision=precision), about, machine())
    assert (found.device, found.base) == ("cpu", 4 * PARAMETERS)


def two_cards(gigabytes: float, ram: float = 64, **config: Any) -> TrainingPlan:
    cards = machine(gigabytes, gigabytes, ram=ram)
    return make_training_plan(TrainingConfig(**config), inspection(LLAMA_2_7B), cards)


def test_a_base_that_no_card_holds_is_spread_over_two() -> None:
    assert not plan(12).fits
    found = two_cards(12)
    assert found.fits and (found.shares, found.loaders) == (2, 2)
    assert found.base == PARAMETERS
    assert found.kept_layers == 0, "our own layers want whole weights"
    assert found.notes[0].startswith("One card does not hold the base: 2 processes share")
    assert "13.5 GB, 2 at a time" in found.notes[0]
    assert two_cards(24).shares == 1, "a base that a card holds stays whole"


def test_a_base_is_read_by_turns_where_the_memory_is_short() -> None:
    assert two_cards(12, ram=20).loaders == 1
    short = two_cards(12, ram=10)
    assert not short.fits
    assert "read into the processor's memory first, which takes 13.5 GB" in short.message


def test_the_base_is_spread_as_the_config_says() -> None:
    assert two_cards(80, sharding="on").shares == 2
    assert two_cards(80, sharding="on", processes=1).shares == 1
    off = two_cards(12, sharding="off")
    assert not off.fits and "a base that the cards share" in off.remedy
    both = two_cards(6)
    assert not both.fits and "GB on each of 2 cards (base 6.74," in both.message


def test_what_is_gathered_and_what_stays_whole_is_counted() -> None:
    alone, spread = two_cards(80), two_cards(80, sharding="on")
    layer, matrix = 2 * (4 * 4096**2 + 3 * 4096 * 11_008 + 2 * 4096), 2 * 32_000 * 4096
    assert spread.workspace - alone.workspace == pytest.approx(3 * layer, rel=1e-3)
    whole = two_cards(80, sharding="on", train_embeddings=True, train_head=True)
    assert whole.base == spread.base + matrix


def test_a_quantized_base_is_spread_only_where_it_is_asked_for() -> None:
    cards, about = machine(2, 2), inspection(LLAMA_2_7B, GPTQ)
    assert make_training_plan(TrainingConfig(), about, cards).shares == 1
    asked = make_training_plan(TrainingConfig(sharding="on"), about, machine(20, 20))
    assert (asked.shares, asked.once, asked.base) == (2, True, PARAMETERS)
