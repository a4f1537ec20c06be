"""Short ways to have a runner compute tracks, and what the whole text gives at once."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from transformers import PreTrainedModel

from modules.engine.mix import Mix
from modules.engine.worker.runner import Runner
from modules.engine.worker.sequence import Track

__all__ = ["beginning", "computed", "greedy", "ids_of", "model_logits", "track"]

_NUMBERS = itertools.count()


def ids_of(count: int, seed: int = 0, vocabulary: int = 100) -> list[int]:
    """Random tokens that are not special."""
    made = torch.Generator().manual_seed(seed)
    return torch.randint(3, vocabulary, (count,), generator=made).tolist()


def track(ids: list[int], mix: Mix = (), hidden: list[Tensor] | None = None) -> Track:
    """With a name that no other has."""
    name = f"track {next(_NUMBERS)}"
    return Track(id=name, token_ids=list(ids), max_tokens=4096, mix=mix, hidden=hidden)


def beginning(runner: Runner, one: Track, chunk: int = 1000) -> Tensor:
    """The logits [vocab] after a prompt that is computed in chunks."""
    runner.start(one)
    while (logits := runner.prefill(one, chunk)) is None:
        pass
    return logits.clone()


def computed(runner: Runner, one: Track, ids: list[int]) -> Tensor:
    """The logits [len(ids), vocab] after each of `ids`, which come to the text one by one."""
    rows = []
    for token_id in ids:
        one.token_ids.append(token_id)
        rows.append(runner.decode([one])[0].clone())
    return torch.stack(rows)


def greedy(runner: Runner, ids: list[int], count: int, chunk: int = 1000) -> list[int]:
    """The likeliest tokens, one after the other."""
    one = track(ids)
    logits = beginning(runner, one, chunk)
    for _ in range(count - 1):
        one.token_ids.append(int(logits.argmax()))
        logits = runner.decode([one])[0]
    runner.release(one)
    return [*one.token_ids[len(ids) :], int(logits.argmax())]


@torch.inference_mode()
def model_logits(model: PreTrainedModel, ids: list[int]) -> Tensor:
    """[len(ids), vocab] of the whole text, computed by transformers without a cache."""
    logits: Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
    return logits
