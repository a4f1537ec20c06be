"""`Session`: one run from the loaded base to the LoRA in loras/."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from modules.errors import StorageError, TrainingError
from modules.loader.adapter_base import base_fingerprint
from modules.training.card import adapter_card, curves_of
from modules.training.config import TrainingConfig
from modules.training.control import ControlReader
from modules.training.dataset import DataFolders, Prepared
from modules.training.events import (
    Event,
    EventLog,
    Failed,
    Finished,
    FinishReason,
    Sampled,
    Saved,
    Scored,
    Stage,
    Started,
    Warned,
)
from modules.training.launch import EVENTS
from modules.training.templates import chat_format
from modules.training.tokenizer import FileTokenizer
from modules.training.trainer.base import Base, load_base
from modules.training.trainer.batches import Batching, Order
from modules.training.trainer.checkpoint import Checkpoints, CheckpointState
from modules.training.trainer.distributed import World
from modules.training.trainer.fast import accelerate_model, keep_activations
from modules.training.trainer.loop import Loop, Parts, RunState
from modules.training.trainer.lora import Lora, add_lora, continue_lora
from modules.training.trainer.memory_faults import (
    OUT_OF_MEMORY,
    OutOfStepError,
    free_memory,
    is_out_of_memory,
)
from modules.training.trainer.objective import Objective
from modules.training.trainer.optimize import Optimization
from modules.training.trainer.planning import plan_run
from modules.training.trainer.publication import (
    Manifest,
    ancestry_of,
    publish_adapter,
)
from modules.training.trainer.samples import Responder
from modules.training.trainer.score import HeldOut, read_held_out, score
from modules.training.trainer.sharded import shard
from modules.training.trainer.two_tokenizers import difference

__all__ = ["Job", "Session"]


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done: the run's own `folder`, the `base`'s, and that of all LoRAs.

    `parent` is the LoRA that is continued, or None.
    """

    config: TrainingConfig
    folder: Path
    base: Path
    loras: Path
    data: DataFolders
    parent: Path | None = None
    resume: bool = False


class Session:
    """Everything of a run that is in memory. Raises LanternError where it cannot begin."""

    def __init__(
        self,
        job: Job,
        prepared: Prepared,
        world: World,
        report: Callable[[Event], None],
        interrupted: Callable[[], bool],
    ) -> None:
        self._job = job
        self._config = config = job.config
        self._prepared = prepared
        self._report = report
        self._interrupted = interrupted
        self._held_out = self._read_held_out()
        self._checkpoints = Checkpoints(job.folder / "checkpoints", config.keep_checkpoints)
        if world.first:
            self._checkpoints.sweep()
        restored = self._checkpoints.load_last() if job.resume else None
        self._plan = plan_run(config, job.base, prepared, world)
        self._world = dataclasses.replace(world, in_step=self._plan.shares > 1)
        if self._plan.message:
            report(Warned(text=f"{self._plan.message} {self._plan.remedy}".strip()))
        with self._world.in_turns(self._plan.loaders or world.size):
            self._base, self._lora, self._sharded = self._load()
        self._world.align(self._lora.parameters())
        self._objective = Objective(self._lora.model, self._base.dtype, config.neftune_noise_alpha)
        self._responder = self._make_responder()
        self._batching = self._choose_batching()
        values = restored.values if restored else {}
        self._size_of_step = int(values.get("size_of_step", 0)) or self._global_size()
        self._order = self._make_order()
        self._total = self._order.total_steps(config.epochs, config.max_steps)
        self._optimization = Optimization(
            self._lora.named_parameters(), config, self._total, self._base.dtype
        )
        self._state = RunState(self._plan.micro_batch_size, stop_loss=config.stop_at_loss)
        self._state.checkpointing = self._plan.checkpointing
        self._score_before: int | None = values.get("score_before")
        if restored:
            self._restore(restored)
        self._resumed_at = self._state.step
        self._manifest = Manifest(job.folder, self._about())

    # -- making -------------------------------------------------------------------------

    def _stage(self, text: str, fraction: float) -> None:
        self._report(Stage(text=text, fraction=fraction))

    def _read_held_out(self) -> list[HeldOut]:
        config, data = self._config, self._job.data
        return read_held_out(data.find(config.held_out)) if config.held_out else []

    def _load(self) -> tuple[Base, Lora, str]:
        """The base, the LoRA over it, and how they are spread over the processes, in words."""
        job, world, apart = self._job, self._world, self._world.in_step
        once = self._plan.once
        base = load_base(job.base, self._config, world.device, self._stage, once=once, aside=apart)
        if job.parent is not None:
            lora = continue_lora(base, self._config, job.parent)
        else:
            lora = add_lora(base, self._config)
        return base, lora, shard(lora.model, world) if apart else ""

    def _make_responder(self) -> Responder:
        tokenizer = FileTokenizer(self._base.folder)
        if told := difference(tokenizer, self._base.tokenizer, self._prepared.train):
            self._report(Warned(text=told))
        chat = chat_format(self._config, tokenizer, self._base.folder)

        def decode(ids: list[int]) -> str:
            return str(self._base.tokenizer.decode(ids, clean_up_tokenization_spaces=False))

        return Responder(self._objective, tokenizer, chat, decode, self._config.sample_tokens)

    def _choose_batching(self) -> Batching:
        wanted = cast(Batching, self._config.batching)
        if wanted == "packed" and not self._objective.packs:
            self._report(
                Warned(text="This model cannot keep packed rows apart, so that batches are sorted.")
            )
            return "sorted"
        return wanted

    def _global_size(self) -> int:
        """Packs (or rows) of one step, of all processes together."""
        accumulation = self._config.gradient_accumulation_steps
        return self._plan.micro_batch_size * accumulation * self._world.size

    def _make_order(self) -> Order:
        lengths = self._prepared.train.lengths
        return Order(
            lengths,
            self._batching,
            cutoff=max(self._config.cutoff_len, self._prepared.longest),
            size=self._size_of_step,
            seed=self._config.seed,
        )

    def _make_evaluation_order(self) -> Order | None:
        lengths = self._prepared.evaluation.lengths
        if not lengths:
            return None
        cutoff = max([self._config.cutoff_len, *lengths])
        return Order(lengths, self._batching, cutoff=cutoff, size=self._state.size, seed=0)

    def _restore(self, checkpoint: CheckpointState) -> None:
        self._load_parameters(checkpoint)
        optimizer = {
            name.removeprefix("optimizer."): tensor
            for name, tensor in checkpoint.tensors.items()
            if name.startswith("optimizer.")
        }
        self._optimization.restore(optimizer, checkpoint.values["optimizer"])
        # What was told in mid-run was for that run: this one goes by its config.
        self._state = RunState.of(checkpoint.values["run"])
        self._state.stop_loss = self._config.stop_at_loss

    def _load_parameters(self, checkpoint: CheckpointState) -> None:
        for name, parameter in self._lora.named_parameters():
            stored = checkpoint.tensors.get(f"parameter.{name}")
            if stored is None or stored.shape != parameter.shape:
                raise TrainingError(
                    "The checkpoint is of a run with other settings.",
                    "Resume with the config.yaml of the run, or begin a new one.",
                )
            parameter.data.copy_(stored)

    def _about(self) -> dict[str, Any]:
        """What the manifests of the run and of its LoRA say of where it comes from."""
        job = self._job
        return {
            "run": job.folder.name,
            "base": job.base.name,
            "base_sha256": base_fingerprint(job.base),
            "data": [dataclasses.asdict(source) for source in self._prepared.sources],
            "config": dataclasses.asdict(self._config),
            "ancestry": ancestry_of(job.parent) if job.parent else [],
        }

    # -- running ------------------------------------------------------------------------

    def run(self) -> None:
        """Train, save, publish and score. Raises LanternError."""
        if self._interrupted():
            raise TrainingError("The run was stopped before its first step.", "Start it again.")
        parts = self._parts()
        loop = Loop(parts, self._state)
        self._tell_start(self._accelerate())
        try:
            if self._resumed_at == 0:
                self._sample()
                self._score_before = self._score()
            reason = loop.run()
            if reason == "patience":
                self._return_to_best()
            self._finish(reason)
        except BaseException as error:
            with contextlib.suppress(StorageError):
                self._note(state="failed", ended=time.time())
            if isinstance(error, OutOfStepError) and not self._world.first:
                self._tell_for_the_first(error)
            raise

    def _tell_for_the_first(self, error: OutOfStepError) -> None:
        """The first process waits for this one until it is ended, and will tell nothing."""
        with contextlib.suppress(OSError):
            log = EventLog(self._job.folder / EVENTS)
            log.write(Failed(message=error.message, remedy=error.remedy))
            log.close()

    def _accelerate(self) -> str:
        """Swap in the fast path where it fits; what was done in words.

        It computes with whole weights, so that spread ones keep to the plain path.
        """
        if self._sharded:
            return self._sharded
        told = accelerate_model(self._lora.model)
        if self._state.checkpointing and self._plan.kept_layers:
            keep_activations(self._base.model, self._plan.kept_layers)
        return told

    def _parts(self) -> Parts:
        control = ControlReader(self._job.folder)
        return Parts(
            config=self._config,
            lora=self._lora,
            objective=self._objective,
            optimization=self._optimization,
            rows=self._prepared.train,
            order=self._order,
            evaluation=self._prepared.evaluation,
            evaluation_order=self._make_evaluation_order(),
            packed=self._batching == "packed",
            total=self._total,
            world=self._world,
            report=self._report,
            save=self._save,
            commands=control.read if self._world.first else list,
            interrupted=self._interrupted,
        )

    def _tell_start(self, faster: str) -> None:
        waste = self._order.waste(self._state.size)
        self._report(
            Started(
                total_steps=self._total,
                rows=len(self._prepared.train),
                tokens=waste.real,
                computed=waste.computed,
                parameters=sum(p.numel() for p in self._lora.parameters()),
                how="; ".join(filter(None, (self._base.how, faster))),
                micro_batch_size=self._state.size,
                processes=self._world.size,
                predicted_bytes=self._plan.predicted_bytes,
                resumed_at=self._resumed_at,
            )
        )
        self._note(state="running", ended=None)

    def _note(self, **values: Any) -> None:
        if self._world.first:
            self._manifest.values.setdefault("started", time.time())
            self._manifest.update(**values)

    # -- saving -------------------------------------------------------------------------

    def _save(self, reason: str, best: bool) -> bool:
        """Write a checkpoint and answer the samples; False where memory ran out."""
        with self._surviving("saving a checkpoint, which was left out") as survived:
            if self._world.first:
                self._write_checkpoint(reason, best)
            self._sample()
        return survived.whole

    def _write_checkpoint(self, reason: str, best: bool) -> None:
        about = {**self._about(), "step": self._state.step}
        path = self._checkpoints.save(
            self._state.step, self._lora, about, self._checkpoint_state(), best=best
        )
        folder = str(path.relative_to(self._job.folder))
        self._report(Saved(step=self._state.step, folder=folder, reason=reason))

    def _checkpoint_state(self) -> CheckpointState:
        tensors, rest = self._optimization.state()
        named = {f"optimizer.{name}": tensor for name, tensor in tensors.items()}
        for name, parameter in self._lora.named_parameters():
            named[f"parameter.{name}"] = parameter.detach()
        values = {
            "run": self._state.values(),
            "optimizer": rest,
            "size_of_step": self._size_of_step,
            "score_before": self._score_before,
        }
        return CheckpointState({k: t.contiguous().cpu() for k, t in named.items()}, values)

    def _return_to_best(self) -> None:
        best = self._checkpoints.best()
        if best:
            self._load_parameters(self._checkpoints.load(best))
            self._stage(f"The LoRA is that of step {best:,}, whose evaluation loss was lowest", 1.0)

    def _finish(self, reason: FinishReason) -> None:
        after = self._score()
        if not self._world.first:
            return
        curves, told = curves_of(self._job.folder), self._scores_in_words(after)
        name = publish_adapter(
            self._job.loras,
            self._config.name,
            self._lora,
            {**self._about(), "step": self._state.step},
            lambda name: adapter_card(name, self._manifest.values, curves, told),
        )
        stopped = reason == "stopped"
        state = self._state
        last = {"loss": state.loss, "smoothed": state.smoothed, "evaluated": state.best}
        self._note(
            state="stopped" if stopped else "done",
            ended=time.time(),
            adapter=name,
            step=state.step,
            curves={key: value for key, value in last.items() if math.isfinite(value)},
        )
        self._report(Finished(step=self._state.step, reason=reason, adapter=name))
        if told:
            self._stage(told, 1.0)

    # -- answers ------------------------------------------------------------------------

    @property
    def _answers(self) -> bool:
        """Whether this process computes answers: the first, or all where it cannot alone."""
        return self._world.first or self._world.in_step

    def _sample(self) -> None:
        if not self._config.sample_prompts or not self._answers:
            return
        with self._surviving("answering the sample prompts"):
            replies = self._responder.replies(self._config.sample_prompts)
            for prompt, reply in zip(self._config.sample_prompts, replies, strict=True):
                self._report(Sampled(step=self._state.step, prompt=prompt, reply=reply))

    def _score(self) -> int | None:
        if not self._held_out or not self._answers:
            return None
        self._stage("Answering the held-out prompts", 0.0)
        with self._surviving("answering the held-out prompts"):
            right = score(self._responder, self._held_out)
            self._report(Scored(step=self._state.step, right=right, of=len(self._held_out)))
            return right
        return None

    def _scores_in_words(self, after: int | None) -> str:
        before, count = self._score_before, len(self._held_out)
        if before is None or after is None:
            return ""
        return f"held-out score: {100 * before / count:.0f} % -> {100 * after / count:.0f} %"

    @contextmanager
    def _surviving(self, what: str) -> Iterator[_Survived]:
        """Tell that memory ran out at what a run can do without, and go on."""
        survived = _Survived()
        try:
            yield survived
        except OUT_OF_MEMORY as error:
            if not is_out_of_memory(error):
                raise
            if self._world.in_step:
                raise OutOfStepError from error
            survived.whole = False
            free_memory()
            self._report(Warned(text=f"Memory ran out while {what}."))


@dataclass(slots=True)
class _Survived:
    whole: bool = True
