"""`World`: the processes that train together, each on its own card.

Gradients of a LoRA are small, so they are summed in one piece after the last micro batch of a
step. Since each process divides its loss by the learnt tokens of all, the sum is exactly the
gradient that a single process would have.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["World", "join"]

_TIMEOUT = datetime.timedelta(hours=2)
"""The others wait while the first one saves, answers samples, and scores."""


@dataclass(frozen=True, slots=True)
class World:
    """This process among `size` of them; `rank` 0 is the one that writes.

    `in_step` says that the base is spread over them, so that none computes without the others.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    in_step: bool = False

    @property
    def first(self) -> bool:
        """Whether this process writes events and files."""
        return self.rank == 0

    def share(self, micro_batches: Sequence[list[int]]) -> list[list[int]]:
        """Those of a step's micro batches that this process computes."""
        return list(micro_batches[self.rank :: self.size])

    def idle(self, micro_batches: Sequence[list[int]]) -> list[int] | None:
        """One that this process computes for nothing behind its share, to keep step."""
        left_over = len(micro_batches) % self.size
        return micro_batches[0] if self.in_step and 0 < left_over <= self.rank else None

    @contextmanager
    def in_turns(self, at_once: int) -> Iterator[None]:
        """Let `at_once` processes do something together, and then the next ones."""
        turns = -(-self.size // at_once)
        mine = self.rank // at_once
        for _ in range(mine):
            self.sum(0.0)
        yield
        for _ in range(mine, turns):
            self.sum(0.0)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make every gradient the sum of those of all processes."""
        if self.size == 1:
            return
        learnt = list(parameters)
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in learnt]
        flat = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(flat)
        at = 0
        for parameter in learnt:
            parameter.grad = flat[at : at + parameter.numel()].view_as(parameter)
            at += parameter.numel()

    def sum(self, *values: float) -> list[float]:
        """Each value, summed over the processes."""
        return self._reduced(values, dist.ReduceOp.SUM) if self.size > 1 else list(values)

    def most(self, *values: float) -> list[float]:
        """Each value, the largest of any process."""
        return self._reduced(values, dist.ReduceOp.MAX) if self.size > 1 else list(values)

    def align(self, parameters: Iterable[Tensor]) -> None:
        """Give every process the values of the first."""
        if self.size > 1:
            for parameter in parameters:
                dist.broadcast(parameter.data, 0)

    def leave(self) -> None:
        """End the company."""
        if self.size > 1:
            dist.destroy_process_group()

    def _reduced(self, values: Sequence[float], how: dist.ReduceOp.RedOpType) -> list[float]:
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, how)
        reduced: list[float] = tensor.tolist()
        return reduced


def join() -> World:
    """The world that the launcher described in the environment, or this process alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank, local = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    cards = torch.cuda.is_available()
    device = torch.device("cuda", local) if cards else torch.device("cpu")
    if cards:
        torch.cuda.set_device(device)
    if size > 1:
        dist.init_process_group("nccl" if cards else "gloo", timeout=_TIMEOUT)
    return World(rank, size, device)
