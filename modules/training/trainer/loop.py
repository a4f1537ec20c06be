"""`Loop`: the steps of a run, one after another, and what happens between them.

The loss of a step is the sum over the learnt tokens of all of its micro batches, of all
processes, divided by their number; so accumulation, packing and the number of processes change
how it is computed, and not what it is. Before each step the random numbers are seeded by its
number, so that a resumed run draws the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modules.errors import TrainingError
from modules.training.config import TrainingConfig
from modules.training.control import Command, Save, Stop, StopAtLoss
from modules.training.curves import Smoother
from modules.training.events import Evaluated, Event, FinishReason, Step, Warned
from modules.training.masking import Masked
from modules.training.trainer.batches import Order, collate, learnt_tokens
from modules.training.trainer.distributed import World
from modules.training.trainer.lora import Lora
from modules.training.trainer.memory_faults import (
    OUT_OF_MEMORY,
    OutOfStepError,
    free_memory,
    is_out_of_memory,
)
from modules.training.trainer.objective import Objective
from modules.training.trainer.optimize import Optimization

__all__ = ["Loop", "Parts", "RunState"]

_EVALUATIONS = 10
"""Evaluations of a run that does not say how many."""


@dataclass(slots=True)
class RunState:
    """Where a run is. `size` packs (or rows) are computed at once; `best` is the lowest
    evaluation loss, and `stale` the evaluations since; `saved_loss` is the smoothed loss at the
    last checkpoint, 0 before the first.
    """

    size: int
    step: int = 0
    smoother: Smoother = dataclasses.field(default_factory=Smoother)
    loss: float = 0.0
    smoothed: float = 0.0
    saved_loss: float = 0.0
    best: float = math.inf
    stale: int = 0
    checkpointing: bool = False
    stop_loss: float = 0.0

    def values(self) -> dict[str, Any]:
        """As JSON takes it."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return values | {"smoother": self.smoother.state}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> RunState:
        """From `values`."""
        return cls(**{**values, "smoother": Smoother(*values["smoother"])})


@dataclass(frozen=True, slots=True)
class Parts:
    """What a loop works with.

    `save` writes a checkpoint for a reason, and says whether it did; `commands` gives what was
    asked for since the last time; `interrupted` is whether the process was told to end.
    """

    config: TrainingConfig
    lora: Lora
    objective: Objective
    optimization: Optimization
    rows: Sequence[Masked]
    order: Order
    evaluation: Sequence[Masked]
    evaluation_order: Order | None
    packed: bool
    total: int
    world: World
    report: Callable[[Event], None]
    save: Callable[[str, bool], bool]
    commands: Callable[[], Sequence[Command]]
    interrupted: Callable[[], bool]


class Loop:
    """Runs from `state.step` on."""

    def __init__(self, parts: Parts, state: RunState) -> None:
        self._parts = parts
        self.state = state
        self._saved_at = state.step
        if state.checkpointing:
            self._turn_checkpointing_on()

    def run(self) -> FinishReason:
        """All steps that are left; why it ended. What was learnt is saved then.

        Raises TrainingError where the loss is no number or memory does not suffice, and
        StorageError where a checkpoint could not be written.
        """
        self._parts.lora.model.train()
        reason: FinishReason | None = None
        while reason is None and self.state.step < self._parts.total:
            self._learn()
            reason = self._after_step()
        reason = reason or "done"
        if self._saved_at != self.state.step:
            self._save("end" if reason == "done" else reason, best=False)
        return reason

    # -- one step -----------------------------------------------------------------------

    def _learn(self) -> None:
        parts, state = self._parts, self.state
        began = time.perf_counter()
        loss = self._gradients_with_room()
        if not math.isfinite(loss):
            raise TrainingError(
                f"The loss of step {state.step + 1:,} is no number ({loss}).",
                "Lower the learning rate, or compute in bf16 or fp32; the last checkpoint is kept.",
            )
        parts.world.sum_gradients(parts.lora.parameters())
        rate = parts.optimization.learning_rate
        norm = parts.optimization.step()
        tokens = parts.order.tokens(state.step)
        state.step += 1
        state.loss, state.smoothed = loss, state.smoother.add(loss)
        parts.report(
            Step(
                step=state.step,
                epoch=parts.order.epoch(state.step),
                loss=loss,
                learning_rate=rate,
                grad_norm=norm,
                tokens=tokens,
                seconds=time.perf_counter() - began,
                memory_bytes=_memory(parts.world.device),
            )
        )

    def _gradients_with_room(self) -> float:
        """The gradients of a step, in smaller micro batches if memory does not suffice."""
        while True:
            short, loss = False, 0.0
            try:
                loss = self._gradients()
            except OUT_OF_MEMORY as error:
                self._must_survive(error)
                short = True
            if not any(self._parts.world.most(short)):
                return self._parts.world.sum(loss)[0]
            self._make_room()

    def _gradients(self) -> float:
        """Add up the gradients of this process's share; returns its share of the loss."""
        parts, state = self._parts, self.state
        world = parts.world
        micro_batches = parts.order.micro_batches(state.step, state.size)
        places = [place for part in micro_batches for place in part]
        count = max(1, learnt_tokens([parts.rows[place] for place in places]))
        torch.manual_seed(_seed(parts.config.seed, state.step, world.rank))
        total = torch.zeros((), dtype=torch.float64, device=world.device)
        for part in world.share(micro_batches):
            total += self._gradients_of(part, count)
        if (idle := world.idle(micro_batches)) is not None:
            self._gradients_of(idle, math.inf)  # which are zero
        return float(total)

    def _gradients_of(self, places: Sequence[int], count: float) -> Tensor:
        parts = self._parts
        rows = [parts.rows[place] for place in places]
        batch = collate(rows, packed=parts.packed, device=parts.world.device)
        loss = parts.objective(batch) / count
        parts.optimization.backward(loss)
        return loss.detach()

    def _must_survive(self, error: BaseException) -> None:
        """Raise what is no lack of memory, and what the other processes cannot wait for."""
        if not is_out_of_memory(error):
            raise error
        if self._parts.world.in_step:
            raise OutOfStepError from error

    def _make_room(self) -> None:
        parts, state = self._parts, self.state
        parts.optimization.forget()
        free_memory()
        if state.size > 1:
            state.size = (state.size + 1) // 2
            told = f"the micro batch is {state.size} now, with more accumulation"
        elif parts.config.gradient_checkpointing == "automatic" and not state.checkpointing:
            self._turn_checkpointing_on()
            told = "gradient checkpointing is on now"
        else:
            raise TrainingError(
                "Memory ran out at a micro batch of 1.",
                "Use a smaller length or rank, gradient checkpointing, or a 4-bit base.",
            )
        parts.report(Warned(text=f"Memory ran out, so that {told}; what is learnt is the same."))

    def _turn_checkpointing_on(self) -> None:
        self._parts.objective.checkpoint_gradients()
        self.state.checkpointing = True

    # -- between steps ------------------------------------------------------------------

    def _after_step(self) -> FinishReason | None:
        parts, state, config = self._parts, self.state, self._parts.config
        stop, save = self._orders()
        impatient = False
        best = False
        if parts.evaluation_order is not None and self._evaluation_due():
            best = self._evaluate()
            impatient = bool(config.patience) and state.stale >= config.patience
        if best:
            self._save("best", best=True)
        elif save or (cause := self._save_due()):
            self._save("asked for" if save else cause, best=False)
        if stop:
            return "stopped"
        if state.stop_loss and state.smoothed <= state.stop_loss:
            return "stop loss"
        return "patience" if impatient else None

    def _orders(self) -> tuple[bool, bool]:
        """Whether to stop, and whether to save; the same in every process."""
        stop, save, loss = self._parts.interrupted(), False, -1.0
        for command in self._parts.commands():
            match command:
                case Stop():
                    stop = True
                case Save():
                    save = True
                case StopAtLoss(wanted):
                    loss = wanted
        stop_of_all, save_of_all, loss = self._parts.world.most(stop, save, loss)
        if loss >= 0:
            self.state.stop_loss = loss
        return bool(stop_of_all), bool(save_of_all)

    def _save_due(self) -> str:
        """Why a checkpoint is due, or nothing."""
        state, config = self.state, self._parts.config
        per_epoch = self._parts.order.steps_per_epoch
        if config.save_steps and state.step % config.save_steps == 0:
            return f"every {config.save_steps:,} steps"
        if not config.save_steps and state.step % per_epoch == 0:
            return f"epoch {state.step // per_epoch:,}"
        if config.save_loss_drop and not state.saved_loss:
            state.saved_loss = state.smoothed  # what the first fall is measured from
        wanted = state.saved_loss * (1 - config.save_loss_drop / 100)
        return "the loss fell" if config.save_loss_drop and state.smoothed <= wanted else ""

    def _save(self, reason: str, *, best: bool) -> None:
        before, self.state.saved_loss = self.state.saved_loss, self.state.smoothed
        if self._parts.save(reason, best):
            self._saved_at = self.state.step
        else:
            self.state.saved_loss = before

    # -- evaluation ---------------------------------------------------------------------

    def _evaluation_due(self) -> bool:
        every = self._parts.config.eval_steps or max(1, self._parts.total // _EVALUATIONS)
        return self.state.step % every == 0 or self.state.step == self._parts.total

    def _evaluate(self) -> bool:
        """Compute and tell the loss on the evaluation set; whether it is the lowest so far."""
        parts, state = self._parts, self.state
        short, total, count = False, 0.0, 0
        try:
            total, count = self._evaluation_loss()
        except OUT_OF_MEMORY as error:
            self._must_survive(error)
            short = True
        short_of_all, total, all_learnt = parts.world.most(short) + parts.world.sum(
            total, float(count)
        )
        if short_of_all:
            free_memory()
            parts.report(Warned(text="Memory ran out at the evaluation, which was left out."))
            return False
        loss = total / max(1.0, all_learnt)
        best = loss < state.best
        state.best, state.stale = (loss, 0) if best else (state.best, state.stale + 1)
        parts.report(Evaluated(step=state.step, loss=loss, best=best))
        return best

    @torch.no_grad()
    def _evaluation_loss(self) -> tuple[float, int]:
        """The summed loss of this process's share, and its learnt tokens."""
        parts = self._parts
        order = parts.evaluation_order
        assert order is not None
        parts.lora.model.eval()
        total, count = 0.0, 0
        batches = [
            part
            for step in range(order.steps_per_epoch)
            for part in order.micro_batches(step, self.state.size)
        ]
        try:
            for part in parts.world.share(batches):
                total += self._loss_of(part)
                count += learnt_tokens([parts.evaluation[place] for place in part])
            if (idle := parts.world.idle(batches)) is not None:
                self._loss_of(idle)
        finally:
            parts.lora.model.train()
        return total, count

    def _loss_of(self, places: Sequence[int]) -> float:
        parts = self._parts
        rows = [parts.evaluation[place] for place in places]
        batch = collate(rows, packed=parts.packed, device=parts.world.device)
        return float(parts.objective(batch))


def _seed(seed: int, step: int, rank: int) -> int:
    return (seed * 1_000_003 + step * 8_191 + rank) % 2**63


def _memory(device: torch.device) -> int:
    """The most bytes taken until now: on the card, or by the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    # Not what getrusage says where this is there: that begins with the peak of whoever forked it.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return 0
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024
