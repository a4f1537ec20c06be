"""Kernels that are wrong or do not compile are told of once, and replies are right without them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from modules.engine.worker.kernels import attention, product, rows
from modules.engine.worker.kernels.product import ProductKernels
from modules.engine.worker.kernels.tiled_linear import TiledLinear
from modules.engine.worker.llama import graphs
from modules.loader.fast_runner import LADDER
from tests.engine.llama.cards import Twin, text, twin_of
from tests.engine.llama.tracks import beginning, computed

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA card"),
]

CASE = "llama, zero points"
WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "a little off": lambda y: y.mul_(1.03),
    "off in one output of many": lambda y: y.index_fill_(1, torch.tensor([7], device=y.device), 30),
    "no numbers": lambda y: y.fill_(torch.nan),
}


def check_replies(twin: Twin) -> None:
    """A prompt in short chunks and at once, and steps."""
    for chunk in (9, 2048):
        one = twin.fresh(text(80))
        twin.check(beginning(twin.runner, one, chunk)[None], one.token_ids)
        twin.check(computed(twin.runner, one, text(3, seed=1)), one.token_ids)
        twin.runner.release(one, keep=False)


def check_told_once(caplog: pytest.LogCaptureFixture, kernel: str) -> None:
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert f"`{kernel}`" in warning.getMessage()


def in_tiles(twin: Twin) -> bool:
    return isinstance(twin.runner._model.weights.layers[0].qkv, TiledLinear)


def test_kernels_that_are_right_are_used_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    twin = twin_of(CASE)
    assert in_tiles(twin)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    check_replies(twin)


@pytest.mark.parametrize("way", WRONG)
def test_a_product_that_is_wrong_is_not_used(
    way: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right = ProductKernels.multiply

    def wrong(self: ProductKernels, *tensors: Any, **more: Any) -> Tensor:
        return WRONG[way](right(self, *tensors, **more))

    monkeypatch.setattr(ProductKernels, "multiply", wrong)
    twin = twin_of(CASE)
    check_told_once(caplog, "product")
    assert not in_tiles(twin)
    check_replies(twin)


@pytest.mark.parametrize(
    ("module", "kernel"),
    [
        (product, "product"),
        (attention, "attention"),
        (rows, "rows"),
    ],
)
def test_a_kernel_that_does_not_compile_is_not_used(
    module: Any,
    kernel: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = tmp_path / "kernel.cu"
    source.write_text("this is no C++")
    monkeypatch.setattr(module, "_SOURCE", source)
    twin = twin_of(CASE)
    check_told_once(caplog, kernel)
    check_replies(twin)


@pytest.mark.parametrize(
    ("kernels", "kernel"),
    [
        (attention.DecodeAttention, "attention"),
        (rows.RowKernels, "rows"),
    ],
)
def test_a_kernel_beside_the_products_that_is_wrong_is_not_used(
    kernels: Any, kernel: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name = {"attention": "__call__", "rows": "swiglu"}[kernel]
    right = getattr(kernels, name)
    monkeypatch.setattr(kernels, name, lambda *all: right(*all).mul_(1.03))
    twin = twin_of(CASE)
    check_told_once(caplog, kernel)
    check_replies(twin)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no memory"), RuntimeError("error 901")])
def test_a_step_that_cannot_be_captured_is_computed_without_a_graph(
    error: RuntimeError, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: Any) -> None:
        raise error

    monkeypatch.setattr(graphs, "_Graph", refused)
    twin = twin_of(CASE)
    told = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(told) == len(LADDER)
    assert all("without a graph" in sentence for sentence in told)
    check_replies(twin)
