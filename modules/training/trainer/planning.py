"""The memory plan of a run on the device that it has got."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from modules.loader.checkpoint import check_checkpoint
from modules.loader.machine import this_machine
from modules.training.config import TrainingConfig
from modules.training.dataset import Prepared
from modules.training.memory import TrainingPlan, Workload, make_training_plan
from modules.training.trainer.base import load_options
from modules.training.trainer.distributed import World

__all__ = ["plan_run"]


def plan_run(config: TrainingConfig, base: Path, prepared: Prepared, world: World) -> TrainingPlan:
    """What the config leaves open, chosen by the memory that is free, alike in all processes.

    Raises ModelError for a base that cannot be loaded.
    """
    about = check_checkpoint(base, load_options(config, world.device))
    machine, work = this_machine(base), _work(config, prepared)
    plan = make_training_plan(config, about, machine, work, processes=world.size)
    (shares,) = world.most(plan.shares)
    if shares > plan.shares:
        # Another process found too little room for all of the base.
        spread = dataclasses.replace(config, sharding="on")
        plan = make_training_plan(spread, about, machine, work, processes=world.size)
    smallest, checkpointing, fewest, loaders = world.most(
        -plan.micro_batch_size, plan.checkpointing, -plan.kept_layers, -plan.loaders
    )
    return dataclasses.replace(
        plan,
        micro_batch_size=-int(smallest),
        checkpointing=bool(checkpointing),
        kept_layers=-int(fewest),
        loaders=-int(loaders),
    )


def _work(config: TrainingConfig, prepared: Prepared) -> Workload:
    if config.batching != "packed":
        return Workload(prepared.longest, len(prepared.train))
    tokens = min(config.cutoff_len, prepared.real_tokens)
    return Workload(tokens, math.ceil(prepared.real_tokens / config.cutoff_len))
