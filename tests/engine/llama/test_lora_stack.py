"""Many LoRAs as one product: every row gets its own mix of them, and nothing of the others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modules.engine.mix import Mix
from modules.engine.worker.kernels.rows import HeadShape
from modules.engine.worker.llama.lora_stack import (
    MOST_RANK,
    LoraStack,
    Pair,
    StackedMixes,
    StackedProduct,
)
from modules.engine.worker.llama.order import gate_up_order, qkv_order

HEADS = HeadShape(4, 2, 16)
IN, MIDDLE = 24, 32
PLACES = {
    **{f"layer.self_attn.{p}_proj": s for p, s in zip("qkv", (64, 32, 32), strict=True)},
    "layer.mlp.gate_proj": MIDDLE,
    "layer.mlp.up_proj": MIDDLE,
    "layer.o_proj": 40,
}
MIXES: list[Mix] = [(), (("one", 1.0),), (("one", -0.5), ("two", 2.0)), (("two", 0.25),)]


def pair(rank: int, size: int) -> Pair:
    return torch.randn(rank, IN), torch.randn(size, rank)


@pytest.fixture
def adapters() -> dict[str, dict[str, Pair]]:
    torch.manual_seed(0)
    one = {place: pair(4, size) for place, size in PLACES.items()}
    two = {place: pair(3, size) for place, size in PLACES.items() if "k_proj" not in place}
    return {"one": one, "two": two}


def stack_of(adapters: dict[str, dict[str, Pair]], paired: bool) -> LoraStack:
    heads = HeadShape(4, 2, 16, paired)
    products = [
        StackedProduct.qkv("layer", heads),
        StackedProduct.gate_up("layer", MIDDLE, paired),
        StackedProduct.single("layer.o_proj", 40),
        StackedProduct.single("lm_head", 8),
    ]
    return LoraStack(adapters, products, torch.zeros(1), 6)


def meant(
    adapters: dict[str, dict[str, Pair]], places: list[str], x: Tensor, mixes: list[Mix]
) -> Tensor:
    rows = []
    for row, mix in zip(x, mixes, strict=True):
        parts = [torch.zeros(PLACES[place]) for place in places]
        for name, weight in mix:
            for part, place in zip(parts, places, strict=True):
                if place in adapters[name]:
                    a, b = adapters[name][place]
                    part += weight * (b @ (a @ row))
        rows.append(torch.cat(parts))
    return torch.stack(rows)


@pytest.mark.parametrize("paired", [False, True])
def test_each_row_gets_what_its_own_mix_adds(
    adapters: dict[str, dict[str, Pair]], paired: bool
) -> None:
    stack, x = stack_of(adapters, paired), torch.randn(4, IN)
    stack.write(MIXES)
    mixes = StackedMixes(stack, stack.weights[:4])
    qkv, gate_up, o = torch.ones(4, 128), torch.ones(4, 2 * MIDDLE), torch.ones(4, 40)
    mixes.add_to_qkv("layer", HEADS, x, qkv)
    mixes.add_to_gate_up("layer", paired, x, gate_up)
    mixes.add("layer.o_proj", x, o)
    attention = meant(adapters, [f"layer.self_attn.{p}_proj" for p in "qkv"], x, MIXES)
    mlp = meant(adapters, ["layer.mlp.gate_proj", "layer.mlp.up_proj"], x, MIXES)
    if paired:
        attention, mlp = attention[:, qkv_order(HEADS)], mlp[:, gate_up_order(MIDDLE)]
    torch.testing.assert_close(qkv - 1, attention, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gate_up - 1, mlp, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        o - 1, meant(adapters, ["layer.o_proj"], x, MIXES), atol=1e-4, rtol=1e-4
    )


def test_a_product_that_no_adapter_changes_is_left_alone(
    adapters: dict[str, dict[str, Pair]],
) -> None:
    output = torch.ones(2, 8)
    stack_of(adapters, False).uniform(MIXES[2]).add("lm_head", torch.randn(2, IN), output)
    assert torch.equal(output, torch.ones(2, 8))


def test_a_later_step_does_not_see_the_mixes_of_one_before(
    adapters: dict[str, dict[str, Pair]],
) -> None:
    stack = stack_of(adapters, False)
    stack.write(MIXES)
    stack.write([MIXES[3]])
    assert stack.weights[0].tolist() == [0.0, 0.25]
    assert not stack.weights[1:].any()


def test_adapters_beyond_the_rank_that_every_row_can_bear_are_left_out() -> None:
    wide = {name: {"layer.o_proj": pair(MOST_RANK // 2, 40)} for name in ("a", "b", "c")}
    assert list(LoraStack.chosen(wide)) == ["a", "b"]
    stack = LoraStack(LoraStack.chosen(wide), [], torch.zeros(1), 4)
    assert stack.covers([(), (("a", 1.0),), (("a", 1.0), ("b", 2.0))])
    assert not stack.covers([(("a", 1.0),), (("c", 1.0),)])
