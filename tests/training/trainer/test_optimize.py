"""The state of optimizers, taken apart and put together."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from modules.training.config import TrainingConfig
from modules.training.trainer.optimize import Optimization


class Wrapping(torch.optim.SGD):
    """Has tensors one level deeper in its state, as the 8-bit optimizers of bitsandbytes do."""

    def __init__(self, groups: Any, lr: float, fused: bool) -> None:
        super().__init__(groups, lr=lr, momentum=0.9)

    def state_dict(self) -> dict[str, Any]:
        found = super().state_dict()
        state = {k: {"step": 1, "wrapped": dict(v)} for k, v in found["state"].items()}
        return {**found, "state": state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = {k: v["wrapped"] for k, v in state_dict["state"].items()}
        super().load_state_dict({**state_dict, "state": state})


def optimization(parameter: nn.Parameter) -> Optimization:
    return Optimization([("a", parameter)], TrainingConfig(), 10, torch.float32)


def learn(made: Optimization, parameter: nn.Parameter) -> torch.Tensor:
    made.backward((parameter - 3).square().sum())
    made.step()
    return parameter.detach().clone()


@pytest.mark.parametrize("wraps", [False, True])
def test_an_optimizer_goes_on_as_if_it_had_not_been_saved(
    wraps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if wraps:
        monkeypatch.setattr(torch.optim, "AdamW", Wrapping)
    parameter = nn.Parameter(torch.arange(4.0))
    first = optimization(parameter)
    learn(first, parameter)
    tensors, rest = first.state()
    rest = json.loads(json.dumps(rest))
    kept = nn.Parameter(parameter.detach().clone())
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    second = optimization(kept)
    second.restore(tensors, rest)
    assert torch.equal(learn(second, kept), learn(first, parameter))
