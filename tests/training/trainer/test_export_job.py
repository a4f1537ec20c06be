"""An export as the page starts it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from modules.errors import InvalidNameError, LanternError
from modules.training.export_job import ExportWish, run_export
from modules.training.launch import RunFolders
from tests.engine.lora import make_adapter
from tests.training.trainer.runs import make_base

pytestmark = pytest.mark.anyio


@pytest.fixture
def folders(tmp_path: Path) -> RunFolders:
    return RunFolders(tmp_path / "models", tmp_path / "loras", tmp_path / "data")


async def test_it_reports_what_it_does_and_says_where_the_model_is(folders: RunFolders) -> None:
    make_adapter(make_base(folders.models / "tiny"), folders.loras / "style")
    told: list[tuple[str, float]] = []
    wish = ExportWish("style", "whole")
    outcome = await run_export(
        wish, folders, lambda stage, fraction: told.append((stage, fraction))
    )
    assert outcome.startswith("Exported to") and (folders.models / "whole").is_dir()
    assert told[0][0].startswith("Merging model.embed_tokens")
    assert told[-1][1] == 1.0


async def test_what_went_wrong_is_said(folders: RunFolders) -> None:
    with pytest.raises(LanternError, match="There is no LoRA called style"):
        await run_export(ExportWish("style", "whole"), folders, lambda stage, fraction: None)


@pytest.mark.parametrize("wish", [ExportWish("style", "../whole"), ExportWish("../style", "whole")])
async def test_no_name_leads_out_of_the_folders(folders: RunFolders, wish: ExportWish) -> None:
    with pytest.raises(InvalidNameError):
        await run_export(wish, folders, lambda stage, fraction: None)


async def test_a_cancelled_export_leaves_nothing(folders: RunFolders) -> None:
    make_adapter(make_base(folders.models / "tiny"), folders.loras / "style")
    begun = asyncio.Event()
    wish = ExportWish("style", "whole")
    work = asyncio.create_task(run_export(wish, folders, lambda stage, fraction: begun.set()))
    await asyncio.wait_for(begun.wait(), 100)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    left = {child.name for child in folders.models.iterdir()} - {"whole"}
    assert left == {"tiny"}
