"""The loss of learnt tokens alone: torch's cross entropy, and its gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from modules.training.packing import IGNORED
from modules.training.trainer.fast import loss as loss_module
from modules.training.trainer.fast.loss import summed_loss


def plain(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    logits = (hidden @ head.t())[:, :-1].flatten(0, 1).float()
    wanted = labels[:, 1:].flatten()
    return functional.cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="sum")


def inputs(rows: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    made = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, length, 16, generator=made)
    head = torch.randn(53, 16, generator=made)
    labels = torch.randint(0, 53, (rows, length), generator=made)
    labels[torch.rand(rows, length, generator=made) < 0.4] = IGNORED
    return hidden, head, labels


@pytest.mark.parametrize(("rows", "length"), [(1, 40), (3, 9), (2, 1)])
@pytest.mark.parametrize("chunk", [4, 1000])
def test_it_is_the_cross_entropy_of_the_tokens_that_are_learnt(
    rows: int, length: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_module, "_LOGITS", chunk * 53)
    hidden, head, labels = inputs(rows, length)
    results = []
    for function in (summed_loss, plain):
        own, weight = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        loss = function(own, weight, labels)
        (loss / 7).backward()  # type: ignore[no-untyped-call]
        results.append((loss.detach(), own.grad, weight.grad))
    for found, meant in zip(*results, strict=True):
        torch.testing.assert_close(found, meant)


def test_a_head_that_does_not_learn_gets_no_gradient() -> None:
    hidden, head, labels = inputs(1, 12)
    summed_loss(hidden.requires_grad_(), head, labels).backward()  # type: ignore[no-untyped-call]
    assert head.grad is None
    assert hidden.grad is not None


def test_nothing_learnt_is_a_loss_of_zero() -> None:
    hidden, head, labels = inputs(2, 6)
    loss = summed_loss(hidden.requires_grad_(), head, torch.full_like(labels, IGNORED))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss == 0
    assert hidden.grad is not None
    assert not hidden.grad.any()


def test_autocast_does_not_round_what_is_float32() -> None:
    hidden, head, labels = inputs(1, 30)
    own = hidden.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = summed_loss(own, head, labels)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(loss.detach(), plain(hidden, head, labels))
    assert own.grad is not None
    assert own.grad.dtype == torch.float32


def test_logits_of_all_tokens_never_exist_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "_LOGITS", 8 * 53 + 5)
    hidden, head, labels = inputs(1, 200)
    sizes: list[int] = []
    real = torch.mm

    def noted(left: Tensor, right: Tensor, **options: Tensor) -> Tensor:
        result = real(left, right, **options)
        sizes.append(result.numel())
        return result

    monkeypatch.setattr(torch, "mm", noted)
    summed_loss(hidden.requires_grad_(), head, labels)
    assert len(sizes) > 10
    assert max(sizes) == 8 * 53


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA card")
def test_a_card_gives_the_same_in_bfloat16() -> None:
    hidden, head, labels = (tensor.cuda() for tensor in inputs(2, 300))
    results = []
    for function in (summed_loss, plain):
        own = hidden.bfloat16().requires_grad_()
        loss = function(own, head.bfloat16(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        assert own.grad is not None
        results.append((loss.detach(), own.grad.float()))
    (loss, grad), (meant_loss, meant_grad) = results
    assert (loss - meant_loss).abs() < 1e-2 * meant_loss
    assert (grad - meant_grad).norm() < 2e-2 * meant_grad.norm()
