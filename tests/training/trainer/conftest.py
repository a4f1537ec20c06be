"""The tiny base that all runs of these tests train on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.training.trainer.runs import Place, make_base, make_rows


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Threads that wait for one another take longer than one on a busy server."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama in a folder called tiny."""
    return make_base(tmp_path_factory.mktemp("bases") / "tiny")


@pytest.fixture
def place(
    tiny_base: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Place:
    """Where runs of this test take place: on the processor, unless it is marked `gpu`."""
    if request.node.get_closest_marker("gpu") is None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    shutil.copytree(tiny_base, tmp_path / "models" / "tiny")
    make_rows(tmp_path / "rows.jsonl")
    return Place(tmp_path)
