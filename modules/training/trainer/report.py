"""`Report`: every event of a run, to its file, to whoever reads the terminal, and to trackers."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any, Protocol

from modules.errors import StorageError, TrainingError
from modules.training.config import TrainingConfig
from modules.training.events import (
    Evaluated,
    Event,
    EventLog,
    Failed,
    Finished,
    Sampled,
    Saved,
    Scored,
    Stage,
    Started,
    Step,
    Warned,
)

__all__ = ["Report", "Tracker", "in_words", "open_tracker"]

_SECONDS = 1.0
"""Between two words about one stage."""


class Tracker(Protocol):
    """Where curves go besides."""

    def add(self, step: int, values: dict[str, float]) -> None:
        """Note values by name."""
        ...

    def close(self) -> None:
        """Send what is left."""
        ...


class Report:
    """The one way out of a run. `tracker` gets the curves as well."""

    def __init__(self, log: EventLog, tracker: Tracker | None = None) -> None:
        self._log = log
        self._total = 0
        self._told: Stage | None = None
        self._repeated = False
        self.tracker = tracker

    def __call__(self, event: Event) -> None:
        """Tell an event. Raises StorageError where the disk is full.

        A stage that comes on is told once a second, and printed once.
        """
        if isinstance(event, Stage):
            if not self._is_news(event):
                return
        else:
            self._told = None
        if isinstance(event, Started):
            self._total = event.total_steps
        if self.tracker is not None and isinstance(event, Step | Evaluated):
            self.tracker.add(event.step, _values(event))
        words = in_words(event, self._total)
        if words and not (isinstance(event, Stage) and self._repeated):
            sys.stdout.write(words + "\n")
            sys.stdout.flush()
        try:
            self._log.write(event)
            if isinstance(event, Saved | Finished | Failed):
                self._log.sync()
        except OSError as error:
            raise StorageError(
                f"The events of the run cannot be written: {error.strerror}.",
                "Make room on the disk, and resume the run.",
            ) from error

    def _is_news(self, event: Stage) -> bool:
        before = self._told
        self._repeated = before is not None and _name(before) == _name(event)
        if before is not None and self._repeated and event.time - before.time < _SECONDS:
            return False
        self._told = event
        return True

    def close(self) -> None:
        """End the file and the tracker."""
        if self.tracker is not None:
            self.tracker.close()
        self._log.close()


def _name(stage: Stage) -> str:
    """What is being done, without how far it is."""
    return re.sub(r"[\d.,]+", "", stage.text)


def _values(event: Event) -> dict[str, float]:
    match event:
        case Step():
            return {
                "loss": event.loss,
                "learning_rate": event.learning_rate,
                "grad_norm": event.grad_norm,
                "tokens_per_second": event.tokens / max(event.seconds, 1e-9),
            }
        case Evaluated():
            return {"evaluation_loss": event.loss}
    return {}


def in_words(event: Event, total: int = 0) -> str:
    """An event as one line for people; `total` steps the run has."""
    match event:
        case Stage():
            return event.text
        case Started():
            return _started(event)
        case Step():
            speed = event.tokens / max(event.seconds, 1e-9)
            return (
                f"step {event.step}/{total}  loss {event.loss:.4f}  "
                f"rate {event.learning_rate:.2e}  norm {event.grad_norm:.2f}  {speed:,.0f} tokens/s"
            )
        case Evaluated():
            return f"step {event.step}  evaluation loss {event.loss:.4f}{' (best)' * event.best}"
        case Sampled():
            return f"step {event.step}  {event.prompt!r}: {event.reply!r}"
        case Saved():
            return f"step {event.step}  saved to {event.folder} ({event.reason})"
        case Scored():
            return f"step {event.step}  held-out prompts: {event.right} of {event.of}"
        case Warned():
            return f"Note: {event.text}"
        case Finished():
            return f"Finished after step {event.step} ({event.reason}): loras/{event.adapter}"
        case Failed():
            return f"Failed: {event.message} {event.remedy}".strip()
    return ""


def _started(event: Started) -> str:
    real = event.tokens / max(event.computed, 1)
    begins = f", from step {event.resumed_at}" if event.resumed_at else ""
    several = f", {event.processes} processes" if event.processes > 1 else ""
    return (
        f"{event.rows:,} rows, {event.tokens:,} tokens an epoch ({real:.0%} of those computed), "
        f"{event.parameters:,} parameters learn; base: {event.how}; "
        f"{event.total_steps:,} steps{begins}{several}"
    )


# -- trackers ---------------------------------------------------------------------------


def open_tracker(config: TrainingConfig, folder: Path) -> Tracker | None:
    """The tracker that the config names. Raises TrainingError where its package is missing."""
    match config.report_to:
        case "tensorboard":
            return _TensorBoard(folder)
        case "wandb":
            return _WeightsAndBiases(config, folder)
    return None


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise _missing("tensorboard") from error
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))

    def add(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    def __init__(self, config: TrainingConfig, folder: Path) -> None:
        try:
            import wandb  # type: ignore[import-not-found,import-untyped,unused-ignore]
        except ImportError as error:
            raise _missing("wandb") from error
        about = dataclasses.asdict(config)
        self._run: Any = wandb.init(
            project="lantern", name=folder.name, dir=str(folder), config=about
        )

    def add(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()


def _missing(package: str) -> TrainingError:
    return TrainingError(
        f"report_to: {package} needs the package {package}.",
        f"Install it (pip install {package}), or set report_to: none.",
    )
