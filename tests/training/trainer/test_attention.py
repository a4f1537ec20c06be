"""Attention over packs: each row gets what it gets alone, and so do its gradients."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from modules.training.trainer.attention import NAME, Rows, attend
from tests.training.trainer.fast.models import (
    llama,
    loss_of,
    mistral,
    packed,
    qwen2,
    qwen3,
    rows_of,
    step,
    with_lora,
)

LENGTHS = (7, 1, 12, 4)
card = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA card")


@pytest.mark.parametrize("make", [llama, mistral, qwen2, qwen3])
def test_a_row_in_a_pack_has_the_loss_that_it_has_alone(
    make: Callable[[], PreTrainedModel],
) -> None:
    torch.manual_seed(0)
    model = with_lora(make())
    rows = rows_of(LENGTHS)
    about, labels = packed(rows)
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        alone = [loss_of(model, {"input_ids": row[None]}, row[None]) for row in rows]
    model.set_attn_implementation(NAME)
    for number, (start, end) in enumerate(pairwise(about["cu_seqlens"].tolist())):
        own = torch.full_like(labels, -100)
        own[:, start:end] = labels[:, start:end]
        with torch.no_grad():
            torch.testing.assert_close(loss_of(model, about, own), alone[number])


@pytest.mark.parametrize("make", [llama, mistral])
def test_the_gradients_of_a_pack_are_the_sums_of_those_of_its_rows(
    make: Callable[[], PreTrainedModel],
) -> None:
    torch.manual_seed(0)
    model = with_lora(make())
    rows = rows_of(LENGTHS)
    together = step(model, rows)
    alone = [step(model, [row]) for row in rows]
    for name, tensor in together.items():
        meant = torch.stack([single[name] for single in alone]).sum(0)
        torch.testing.assert_close(tensor, meant, rtol=1e-4, atol=1e-5)


def test_another_row_changes_nothing_in_a_row() -> None:
    torch.manual_seed(0)
    model = with_lora(llama())
    first, second, other = rows_of((6, 9, 9))
    with torch.no_grad():
        hidden = [
            model.get_base_model().get_decoder()(**packed([first, row])[0]).last_hidden_state
            for row in (second, other)
        ]
    assert torch.equal(hidden[0][:, :6], hidden[1][:, :6])
    assert not torch.equal(hidden[0][:, 6:], hidden[1][:, 6:])


def plain(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], window: int) -> Tensor:
    """With a mask and a softmax, in float64."""
    row = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    places = torch.arange(len(q))
    away = places[:, None] - places
    seen = (row[:, None] == row) & (away >= 0) & (away < window)
    groups = q.shape[1] // k.shape[1]
    k, v = (tensor.repeat_interleave(groups, 1) for tensor in (k, v))
    scores = torch.einsum("ihd,jhd->hij", q, k) * 0.3
    shares = scores.masked_fill(~seen.to(q.device), -torch.inf).softmax(-1)
    return torch.einsum("hij,jhd->ihd", shares, v)


def compare(dtype: torch.dtype, device: str, window: int, most: float) -> None:
    torch.manual_seed(0)
    lengths = list(LENGTHS)
    inputs = [torch.randn(sum(lengths), heads, 32, dtype=torch.float64) for heads in (4, 2, 2)]
    outer = torch.randn(sum(lengths), 4, 32, dtype=torch.float64)
    exact = [tensor.clone().requires_grad_() for tensor in inputs]
    meant = plain(*exact, lengths, window or 99)  # type: ignore[call-arg]
    meant.backward(outer)
    own = [tensor.to(device, dtype).requires_grad_() for tensor in inputs]
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    rows = Rows.of(bounds, None, torch.device(device), window)
    found = attend(*own, rows, 0.3)  # type: ignore[call-arg]
    found.backward(outer.to(found))
    pairs = [(found, meant), *((a.grad, b.grad) for a, b in zip(own, exact, strict=True))]
    for one, other in pairs:
        assert one is not None and other is not None
        assert (one.cpu().double() - other).norm() < most * other.norm()


@pytest.mark.parametrize("window", [0, 3])
def test_rows_keep_to_themselves_on_the_processor(window: int) -> None:
    compare(torch.float64, "cpu", window, 1e-9)


@pytest.mark.gpu
@card
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("window", [0, 3])
def test_rows_keep_to_themselves_on_a_card(dtype: torch.dtype, window: int) -> None:
    compare(dtype, "cuda", window, 2e-2)


@pytest.mark.gpu
@card
def test_the_loss_of_a_row_in_a_pack_is_its_own_on_a_card() -> None:
    torch.manual_seed(0)
    model = with_lora(llama()).to("cuda", torch.bfloat16)
    rows = rows_of(LENGTHS)
    together = step(model, rows, "cuda")["loss"]
    alone = torch.stack([step(model, [row], "cuda")["loss"] for row in rows]).sum()
    assert (together - alone).abs() < 1e-2 * alone
