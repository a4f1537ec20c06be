"""LoRAs on a card: rows with different ones in a captured step, against PEFT in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from modules.engine.mix import Mix
from tests.engine.llama.cards import (
    DEVICE,
    TOLERANCE,
    Twin,
    assert_close,
    peft_model,
    text,
    twin_of,
)
from tests.engine.llama.tracks import beginning, model_logits, track
from tests.engine.lora import LINEAR, make_adapter

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA card"),
]

LORAS: dict[str, dict[str, Any]] = {
    "eight": {"r": 8},
    "sixteen": {"r": 16},
    "dora": {"r": 8, "use_dora": True},
    "ends": {"r": 8, "target_modules": ["embed_tokens", "lm_head"]},
    **{only: {"r": 8, "target_modules": [only]} for only in LINEAR},
}
MIXES: list[Mix] = [
    (),
    (("eight", 1.0),),
    (("eight", 0.5), ("sixteen", -0.7)),
    (("dora", 1.0),),
    (("ends", 1.0),),
]


@dataclass(frozen=True, eq=False)
class Adapted:
    """A twin with the LoRAs of `folders` applied to its runner."""

    twin: Twin
    folders: dict[str, Path]

    def logits(self, ids: list[int], mix: Mix) -> Tensor:
        """[len(ids), vocabulary] by PEFT; what the mix changes is far more than the tolerance."""
        model: Any = peft_model(self.twin.reference, self.folders, mix)
        meant = model_logits(model, ids)
        plain = self.twin.logits(ids)
        assert (
            not mix or float((meant - plain).norm() / plain.norm()) > 4 * TOLERANCE[self.twin.dtype]
        )
        return meant

    def check(self, found: Tensor, ids: list[int], mix: Mix) -> None:
        """That logits [n, vocabulary] are those after the last n of `ids`."""
        assert_close(found, self.logits(ids, mix)[-len(found) :], self.twin.dtype)


@pytest.fixture(
    scope="module",
    params=["llama, 4 bits", "llama, ordered", "qwen 2, 4 bits", "llama, nine heads, 16 bits"],
)
def adapted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    twin, place = twin_of(request.param), tmp_path_factory.mktemp("loras")
    twin.reference.save_pretrained(place / "base")
    folders = {
        name: make_adapter(place / "base", place / name, seed, lora_alpha=8, **options)
        for seed, (name, options) in enumerate(LORAS.items())
    }
    for name, folder in folders.items():
        twin.runner.load_adapter(name, folder, text(8))
    return Adapted(twin, folders)


def fill_what_is_free() -> list[Tensor]:
    """Small tensors of zeros, where those that nobody holds any more have been."""
    return [torch.zeros(8, dtype=torch.int64, device=DEVICE) for _ in range(500)]


def graph_keys(twin: Twin) -> set[Any]:
    graphs: Any = twin.runner._graphs
    return set(graphs._graphs)


def test_rows_with_different_mixes_are_each_their_own(adapted: Adapted) -> None:
    adapted.twin.fresh([])
    runner = adapted.twin.runner
    texts = [text(length, seed=length) for length in (24, 68, 69, 104, 153)]
    tracks = [track(ids[:-4], mix) for ids, mix in zip(texts, MIXES, strict=True)]
    found = {one.id: [beginning(runner, one, chunk=64)] for one in tracks}
    rows, held = list(zip(tracks, texts, strict=True)), []
    for step in (-4, -3, -2, -1):
        if step == -2:
            rows.reverse()  # another graph
        for one, ids in rows:
            one.token_ids.append(ids[step])
        logits = runner.decode([one for one, _ in rows]).clone()
        for (one, _), row in zip(rows, logits, strict=True):
            found[one.id].append(row)
        held += fill_what_is_free()
    for one, ids in rows:
        adapted.check(torch.stack(found[one.id]), ids, one.mix)
        runner.release(one, keep=False)


@pytest.mark.parametrize("count", [3, 64, 100])
def test_a_lora_of_one_projection_changes_its_own_outputs(adapted: Adapted, count: int) -> None:
    """In captured steps (after 3 tokens of prompt), few rows of a prompt, and many."""
    adapted.twin.fresh([])
    runner, ids = adapted.twin.runner, text(count + 2, seed=count)
    tracks = [track(ids[:-2], ((only, 1.0),)) for only in LINEAR]
    found = [[beginning(runner, one, chunk=count)] for one in tracks]
    for step in (-2, -1):
        for one in tracks:
            one.token_ids.append(ids[step])
        for each, row in zip(found, runner.decode(tracks).clone(), strict=True):
            each.append(row)
    for one, each in zip(tracks, found, strict=True):
        adapted.check(torch.stack(each), ids, one.mix)
        runner.release(one, keep=False)


def test_a_draft_is_computed_with_the_mix_of_its_track(adapted: Adapted) -> None:
    ids, mix = text(45, seed=3), MIXES[2]
    one = adapted.twin.fresh(ids[:40], mix)
    beginning(adapted.twin.runner, one)
    found = adapted.twin.runner.extend(one, ids[40:]).clone()
    adapted.check(found, ids, mix)
    adapted.twin.runner.release(one, keep=False)


@pytest.mark.parametrize(
    ("others", "graphs"),
    [
        pytest.param([MIXES[2], MIXES[1]], 1, id="plain ones: one graph for all mixes"),
        pytest.param([MIXES[3], MIXES[2]], 2, id="with DoRA: one for each choice of mixes"),
    ],
)
def test_a_step_is_captured_once(adapted: Adapted, others: list[Mix], graphs: int) -> None:
    adapted.twin.fresh([])
    runner = adapted.twin.runner
    tracks = [track(text(9, seed=seed), mix) for seed, mix in enumerate([(), *others])]
    for one in tracks:
        beginning(runner, one)
    plain = graph_keys(adapted.twin)
    for _ in range(2):
        for order in (tracks, tracks[::-1]):
            for one in order:
                one.token_ids.append(7)
            runner.decode(order)
    assert len(graph_keys(adapted.twin) - plain) <= graphs
    for one in tracks:
        runner.release(one, keep=False)


@pytest.fixture
def say(adapted: Adapted) -> Callable[[Path], None]:
    """Check a prompt and a step with the LoRA of a folder, which is applied as `passing`."""

    def say(folder: Path) -> None:
        ids, mix = text(41, seed=9), (("passing", 1.0),)
        adapted.folders["passing"] = folder
        one = track(ids[:40], mix)
        found = [beginning(adapted.twin.runner, one)]
        one.token_ids.append(ids[40])
        found.append(adapted.twin.runner.decode([one])[0].clone())
        adapted.check(torch.stack(found), ids, mix)
        adapted.twin.runner.release(one)

    return say


def test_what_was_computed_with_an_unloaded_lora_is_forgotten(
    adapted: Adapted, say: Callable[[Path], None]
) -> None:
    runner = adapted.twin.runner
    for name in ("eight", "sixteen"):  # under one name, so that what is stale would be found
        runner.load_adapter("passing", adapted.folders[name], text(8))
        say(adapted.folders[name])
        with_it = graph_keys(adapted.twin)
        runner.unload_adapter("passing")
        assert with_it - graph_keys(adapted.twin)
