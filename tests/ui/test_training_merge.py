"""Merging what was trained into a whole model, from the page: the merge itself is staged."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from modules.context import AppContext
from modules.errors import (
    AdapterError,
    InvalidInputError,
    InvalidNameError,
    LanternError,
    NotFoundError,
)
from modules.loader.quantization.format import QuantizationFormat
from modules.training.export_job import ExportWish
from modules.training.launch import RunFolders
from modules.ui import training_merge
from modules.ui.training_merge import MergeSubject, look_json, merge, merges_json
from tests.folders import TINY, put_llama, put_lora
from tests.loader.shapes import inspection

pytestmark = pytest.mark.anyio

STYLE = MergeSubject(lora="style")
Merging = Callable[[ExportWish, RunFolders, Callable[[str, float], None]], Any]


@pytest.fixture(autouse=True)
def folders(ctx: AppContext) -> None:
    put_llama(ctx.settings.model_dir, "Tiny", TINY)
    put_lora(ctx.settings.lora_dir, "style")


def staged(monkeypatch: pytest.MonkeyPatch, merging: Merging) -> None:
    monkeypatch.setattr(training_merge, "run_export", merging)


async def test_before_a_merge_one_sees_its_size_and_a_name_that_is_free(ctx: AppContext) -> None:
    put_llama(ctx.settings.model_dir, "style-merged", TINY)
    found = look_json(ctx, STYLE)
    assert (found["base"], found["name"], found["quantized"]) == ("Tiny", "style-merged-2", False)
    assert found["size"] == 2 * inspection(TINY).parameters and found["free"] > 0
    assert found["taken"] == ["Tiny", "style-merged"]


async def test_of_a_quantized_base_it_is_said(ctx: AppContext) -> None:
    form = QuantizationFormat("gptq", 4, 64, symmetric=True)
    shutil.rmtree(ctx.settings.model_dir / "Tiny")
    put_llama(ctx.settings.model_dir, "Tiny", TINY, form)
    found = look_json(ctx, STYLE)
    assert found["quantized"] and found["size"] == 2 * inspection(TINY).parameters


async def test_a_merge_is_a_job_that_says_how_far_it_is_and_what_came_of_it(
    ctx: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    going = asyncio.Event()

    async def merging(wish: ExportWish, folders: RunFolders, report: Any) -> str:
        assert wish == ExportWish("style", "whole")
        report("Merging layer 1", 0.5)
        await going.wait()
        return "Perplexity: 3 before, 3 after."

    staged(monkeypatch, merging)
    job = merge(ctx, STYLE, "whole")
    await asyncio.sleep(0.05)
    (told,) = merges_json(ctx)
    assert (told["state"], told["stage"], told["fraction"]) == ("running", "Merging layer 1", 0.5)
    with pytest.raises(InvalidInputError, match="Another model is being merged"):
        merge(ctx, STYLE, "second")
    going.set()
    await job.wait()
    (told,) = merges_json(ctx)
    assert (told["state"], told["outcome"]) == ("done", "Perplexity: 3 before, 3 after.")


async def test_a_merge_that_fails_says_why_and_one_that_is_cancelled_is_forgotten(
    ctx: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(wish: ExportWish, folders: RunFolders, report: Any) -> str:
        raise LanternError("The disk is full.", "Make room.")

    async def waiting(wish: ExportWish, folders: RunFolders, report: Any) -> str:
        return await asyncio.get_running_loop().create_future()

    staged(monkeypatch, failing)
    await merge(ctx, STYLE, "whole").wait()
    staged(monkeypatch, waiting)
    job = merge(ctx, STYLE, "other")
    await asyncio.sleep(0)
    ctx.jobs.cancel(job.id)
    await job.wait()
    (told,) = merges_json(ctx)
    assert (told["name"], told["error"]) == ("whole", "The disk is full. Make room.")


@pytest.mark.parametrize(
    ("subject", "name", "error"),
    [
        (STYLE, "Tiny", InvalidInputError),
        (STYLE, "../whole", InvalidNameError),
        (MergeSubject(lora="gone"), "whole", AdapterError),
        (MergeSubject(run="gone", step=3), "whole", NotFoundError),
    ],
)
async def test_what_cannot_be_merged_is_refused_at_once(
    ctx: AppContext, subject: MergeSubject, name: str, error: type[LanternError]
) -> None:
    with pytest.raises(error):
        merge(ctx, subject, name)
    assert not ctx.jobs.jobs()
