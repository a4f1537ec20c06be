"""Hostile names, through everything that takes a name: nothing leaves its folder."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

from modules.chat.character import Character
from modules.chat.characters import Characters
from modules.chat.prompt_files import delete_prompt, read_prompt, save_prompt
from modules.chat.transfer.writing import file_name
from modules.chat.uploads import _shown_name
from modules.engine.params import SamplingParams
from modules.engine.presets import delete_preset, load_preset, save_preset
from modules.engine.protocol import LoadModel
from modules.errors import LanternError
from modules.loader.adapters import find_adapter
from modules.loader.catalog import find_model
from modules.loader.download import DownloadRequest
from modules.loader.download.listing import child_of, folder_name
from modules.settings import ROOT
from modules.training.config import TrainingConfig
from modules.training.formats import read_format
from modules.training.store import RunStore
from modules.training.trainer.publication import _free
from modules.ui import training_sets
from tests.faults.bodies import operations, texts_replaced
from tests.faults.conftest import Found
from tests.faults.counts import counts
from tests.faults.house import House, build, keep_to_itself
from tests.hub import Hub
from tests.loader.folders import make_model
from tests.test_paths import UPS, hostile_names

pytestmark = pytest.mark.anyio

CANARY = "the-canary-outside"
WAY_OUT = "way-out"
ENDINGS = ("", ".yaml", ".yml", ".json", ".txt", ".webp", ".png", ".jsonl")
LINKED = ("presets", "characters", "datasets", "training", "tools")
"""Folders of user_data that a link is planted in."""

LONGEST_URL = 60_000
"""No client sends a longer one."""

ANY_FILE = {"/page/training/datasets/look", "/page/training/preview", "/page/training/lint",
            "/page/training/plan", "/page/training/start"}  # fmt: skip
"""The owner may train on any file of the machine, and names it by its path."""


def names(count: int) -> list[str]:
    """Those that lead to the canary by a link or by its path, and `count` others."""
    ways = [up * deep + "outside/secret" for up in UPS for deep in (1, 2, 3)]
    every = hostile_names()
    chosen = every if count >= len(every) else random.Random(count).sample(every, count)
    return [WAY_OUT, *(WAY_OUT + end for end in ENDINGS), *ways, *chosen]


def is_folder(name: str) -> bool:
    """Whether a name is the path of some folder of this machine."""
    try:
        return Path(ROOT, name).is_dir()
    except (OSError, ValueError):
        return False


def plant(folder: Path) -> None:
    """Links out of every folder, to a canary beside the house."""
    outside = folder.parent / "outside"
    outside.mkdir()
    for end in ENDINGS:
        (outside / f"secret{end}").write_text(f"context: {CANARY}\n" if "y" in end else CANARY)
    make_model(outside, "model", ORIGIN__md=CANARY)
    (outside / "config.yaml").write_text(f"name: {CANARY}\n")
    (outside / "adapter_config.json").write_text(json.dumps({"base": CANARY}))
    user_data = folder / "user_data"
    for place in (*(user_data / name for name in LINKED), folder / "prompts"):
        place.mkdir(exist_ok=True)
        for end in ENDINGS[1:]:
            (place / (WAY_OUT + end)).symlink_to(outside / f"secret{end}")
        (place / WAY_OUT).symlink_to(outside)
    (folder / "models" / WAY_OUT).symlink_to(outside / "model")
    (folder / "loras" / WAY_OUT).symlink_to(outside)


def seen(*folders: Path) -> Mapping[str, bytes | str]:
    """Every file with its content, and every link with its target."""
    found: dict[str, bytes | str] = {}
    for folder in folders:
        for root, inside, files in os.walk(folder):
            for name in (*inside, *files):
                path = Path(root) / name
                if path.is_symlink():
                    found[str(path)] = str(path.readlink())
                else:
                    found[str(path)] = "" if path.is_dir() else path.read_bytes()
    return found


@pytest.fixture
async def house(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    """With links planted in it; relative paths would lead into a folder that stays empty."""
    keep_to_itself(monkeypatch)
    (tmp_path / "house").mkdir()
    (tmp_path / "here").mkdir()
    house = await asyncio.to_thread(build, tmp_path / "house", place=plant)
    monkeypatch.chdir(tmp_path / "here")
    yield house
    house.close()


def functions(house: House) -> Mapping[str, Callable[[str], object]]:
    """Everything that makes a path of a name, by what it is."""
    settings = house.ctx.settings
    paths, characters = settings.paths, Characters(settings.paths)
    runs, someone = RunStore(paths.training), Character("Someone")
    formats = (paths.datasets,)
    return {
        "load a preset": lambda name: load_preset(paths, name),
        "save a preset": lambda name: save_preset(paths, name, SamplingParams()),
        "delete a preset": lambda name: delete_preset(paths, name),
        "read a prompt": lambda name: read_prompt(paths.prompts, name),
        "save a prompt": lambda name: save_prompt(paths.prompts, name, "x", replace=True),
        "delete a prompt": lambda name: delete_prompt(paths.prompts, name),
        "find a character": characters.find,
        "find a picture": characters.picture,
        "save a character": lambda name: characters.save(name, someone, b"picture"),
        "name a character": lambda name: characters.save(characters.free_key(name), someone, None),
        "delete a character": characters.delete,
        "restore a character": characters.restore,
        "find a model": lambda name: find_model(settings.model_dir, name),
        "find a LoRA": lambda name: find_adapter(settings.lora_dir, name),
        "publish a LoRA": lambda name: _free(settings.lora_dir, name, "run"),
        "delete a dataset": lambda name: training_sets.delete_set(house.ctx, name),
        "read a format": lambda name: read_format(name, formats),
        "begin a run": lambda name: runs.create(TrainingConfig(base="Tiny", name=name)),
        "find a run": runs.get,
        "delete a run": runs.delete,
        "place a file of a hub": lambda name: child_of(settings.model_dir, name),
        "place a download": lambda name: child_of(
            settings.model_dir, folder_name(*DownloadRequest(model=name).repo_and_branch())
        ),
    }


@counts(500, 5000)
async def test_no_function_takes_a_name_out_of_its_folder(
    count: int, house: House, tmp_path: Path, found: Found
) -> None:
    watched = (tmp_path / "outside", tmp_path / "here")
    before, told = seen(*watched), Counter[str]()
    every = functions(house)
    for name in names(count):
        for what, act in every.items():
            try:
                answer = act(name)
            except LanternError as error:
                assert CANARY not in str(error), (what, name)
                told["refused"] += 1
                continue
            assert CANARY not in repr(answer), (what, name)
            if isinstance(answer, Path):
                assert answer.resolve().is_relative_to(house.folder.resolve()), (what, name)
            told["kept inside"] += 1
        for offered in (file_name(name, ".md"), _shown_name(name)):  # to a browser; never a path
            assert not set(offered) & set("/\\\0\n"), name
    assert seen(*watched) == before
    found(
        f"{len(names(count)):,} hostile names through {len(every)} functions that take one",
        f"none escaped its folder, planted links included ({told['refused']:,} refused with a "
        f"sentence, {told['kept inside']:,} kept inside)",
    )


@counts(500, 5000)
async def test_no_route_takes_a_name_out_of_its_folder(
    count: int, house: House, tmp_path: Path, found: Found
) -> None:
    watched = (tmp_path / "outside", tmp_path / "here")
    before, draw, asked = seen(*watched), random.Random(count), 0
    async with house.client() as client:
        document = (await client.get("/openapi.json")).json()
        every = [o for o in operations(document, house.ctx) if texts_replaced(o, "x", draw)]
        for name in names(count):
            # The planted links go to every route, and the others to some of them.
            some = draw.sample(every, 1 if count < 5000 else 3)
            chosen = every if name.startswith(WAY_OUT) else some
            for operation in chosen:
                if house.ctx.engine.state.phase != "ready":
                    await house.ctx.engine.load(LoadModel("models/Tiny"))
                request = texts_replaced(operation, name, draw)
                if request is None or len(request.url) > LONGEST_URL:
                    continue
                if operation.path in ANY_FILE and is_folder(name):  # all of it would be read
                    continue
                answer = await client.request(
                    operation.method, request.url, content=request.content, headers=request.headers
                )
                asked += 1
                told = (operation.path, name, answer.text[:300])
                assert answer.status_code < 500, told
                assert CANARY not in answer.text or operation.path in ANY_FILE, told
    assert seen(*watched) == before
    found(
        f"{len(names(count)):,} hostile names in {asked:,} requests to the {len(every)} routes "
        "that take a text",
        "none escaped its folder, none was a fault of the server",
    )
