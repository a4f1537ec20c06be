"""The formulas of training's kernels against autograd, and the kernels against the formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from modules.training.trainer.fast.check import best_rows, outputs
from modules.training.trainer.fast.rows import RowKernels, TorchRows

ROWS = TorchRows()
EPS = 1e-5


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def wide(rows: int, columns: int) -> Tensor:
    """The first columns of something wider."""
    return torch.empty(rows, columns + 8, dtype=torch.float64)[:, :columns]


def doubles(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def test_the_norm_and_its_gradient_are_those_of_llama() -> None:
    norm = LlamaRMSNorm(48, eps=EPS).double()
    norm.weight.data.normal_()
    x, dy, rest = doubles(5, 48).requires_grad_(), doubles(5, 48), doubles(5, 48)
    y = functional.rms_norm(x, (48,), norm.weight.detach(), EPS)
    y.backward(dy)
    assert x.grad is not None
    torch.testing.assert_close(y.detach(), norm(x.detach()).detach(), rtol=1e-5, atol=1e-5)
    given = x.detach(), norm.weight.detach()
    torch.testing.assert_close(ROWS.norm(*given, EPS, wide(5, 48)), y.detach())
    found = ROWS.norm_backward(*given, dy, rest, EPS, wide(5, 48))
    torch.testing.assert_close(found, x.grad + rest)
    torch.testing.assert_close(dy, y.detach())


def test_a_sum_is_given_beside_its_norm() -> None:
    x, delta, weight = doubles(5, 48), doubles(5, 48), doubles(48)
    h, y = ROWS.add_norm(x, delta, weight, EPS, wide(5, 48))
    torch.testing.assert_close(h, x + delta)
    torch.testing.assert_close(y, functional.rms_norm(h, (48,), weight, EPS))


def test_the_rotary_embedding_and_its_gradient_are_those_of_llama() -> None:
    cos, sin = (doubles(5, 8).repeat(1, 2) for _ in range(2))
    qkv = doubles(5, 7 * 16).requires_grad_()
    q, k, v = (part.view(5, -1, 16) for part in torch.split(qkv, [48, 32, 32], 1))
    turned = apply_rotary_pos_emb(
        q.transpose(0, 1)[None], k.transpose(0, 1)[None], cos[None], sin[None]
    )
    q, k = (part[0].transpose(0, 1) for part in turned)
    grads = doubles(5, 3, 16), doubles(5, 2, 16), doubles(5, 2, 16)
    torch.autograd.backward((q, k, v), grads)
    own = qkv.detach().clone()
    ROWS.turn(own, cos, sin, 5)
    torch.testing.assert_close(own, torch.cat((q, k, v), 1).flatten(1).detach())
    torch.testing.assert_close(ROWS.turn_backward(grads, cos, sin, wide(5, 112)), qkv.grad)


def test_the_gate_and_its_gradient_are_those_of_autograd() -> None:
    gate_up, dy = doubles(5, 48).requires_grad_(), doubles(5, 24)
    gate, up = gate_up.chunk(2, 1)
    y = functional.silu(gate) * up
    y.backward(dy)
    torch.testing.assert_close(ROWS.gate(gate_up.detach(), wide(5, 24)), y.detach())
    torch.testing.assert_close(ROWS.gate_backward(gate_up.detach(), dy, wide(5, 48)), gate_up.grad)
    torch.testing.assert_close(dy, y.detach())


def test_the_cross_entropy_and_its_gradient_are_those_of_autograd() -> None:
    logits, labels = doubles(5, 37).requires_grad_(), torch.tensor([0, 36, 4, 4, 9])
    losses = functional.cross_entropy(logits, labels, reduction="none")
    losses.sum().backward()  # type: ignore[no-untyped-call]
    own = wide(5, 37).copy_(logits.detach())
    torch.testing.assert_close(ROWS.cross_entropy(own, labels), losses.detach().float())
    torch.testing.assert_close(own, logits.grad)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA card")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("width", "dim"), [(576, 32), (4096, 128), (8200, 64)])
def test_the_kernels_compute_the_formulas(dtype: torch.dtype, width: int, dim: int) -> None:
    device = torch.device("cuda", 0)
    found = outputs(RowKernels(dtype, device), dtype, device, width=width, dim=dim)
    meant = outputs(TorchRows(), dtype, device, width=width, dim=dim)
    for name, tensor in found.items():
        wanted = meant[name].float()
        assert (tensor.float() - wanted).norm() < 4e-3 * wanted.norm(), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA card")
def test_a_card_that_has_the_kernels_uses_them() -> None:
    device = torch.device("cuda", 0)
    assert isinstance(best_rows(torch.bfloat16, device), RowKernels)
    assert isinstance(best_rows(torch.float32, device), TorchRows)
