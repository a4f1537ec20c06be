"""What a run has told until now, read from its events as they come."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modules.training.curves import History
from modules.training.events import (
    Evaluated,
    Event,
    EventReader,
    Failed,
    Finished,
    Sampled,
    Scored,
    Stage,
    Started,
    Step,
    Warned,
)

__all__ = ["Progress", "Told"]

_MOST_SAMPLES = 400
_MOST_WARNINGS = 50


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. Numbers that are not known yet are 0.

    `stage` says what is done beside the steps, with its own `fraction`; `seconds_left` is for
    the steps alone, and `memory_bytes` the most that was taken until now.
    """

    step: int = 0
    total_steps: int = 0
    epoch: float = 0.0
    loss: float = 0.0
    smoothed: float = 0.0
    learning_rate: float = 0.0
    tokens_per_second: float = 0.0
    seconds_left: float = 0.0
    memory_bytes: int = 0
    predicted_bytes: int = 0
    stage: str = ""
    fraction: float = 0.0


class Told:
    """The events of one run, taken together. `end` is how it ended, until it goes on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader = EventReader(path)
        self._size = 0
        self._last: Step | None = None
        self._stage: Stage | None = None
        self.history = History()
        self.started: Started | None = None
        self.samples: list[Sampled] = []
        self.scores: list[Scored] = []
        self.warnings: list[str] = []
        self.end: Literal["", "finished", "failed"] = ""
        self.reason = ""
        self.adapter = ""
        self.error = ""
        self.remedy = ""

    def began_anew(self) -> bool:
        """Whether the file is another, shorter one than the one that was read."""
        return self._file_size() < self._size

    def read(self) -> bool:
        """Take in what is new; returns whether there was anything."""
        size = self._file_size()
        if size == self._size:
            return False
        self._size = size
        for event in self._reader.read():
            self._add(event)
        return True

    def _file_size(self) -> int:
        try:
            return self._path.stat().st_size
        except OSError:
            return 0

    def _add(self, event: Event) -> None:
        if not (isinstance(event, Stage) and self.end == "finished"):  # that is its last word
            self.end = ""
        match event:
            case Stage():
                self._stage = event
            case Started():
                self._begin(event)
            case Step():
                self.history.add(event)
                self._last, self._stage = event, None
            case Evaluated():
                self.history.evaluate(event)
            case Sampled():
                self.samples = [s for s in self.samples if _place(s) != _place(event)]
                self.samples = [*self.samples, event][-_MOST_SAMPLES:]
            case Scored():
                self.scores = [*(s for s in self.scores if s.step != event.step), event]
            case Warned():
                if event.text not in self.warnings:
                    self.warnings = [*self.warnings, event.text][-_MOST_WARNINGS:]
            case Finished():
                self.end, self.reason, self.adapter = "finished", event.reason, event.adapter
                self._stage = None
            case Failed():
                self.end, self.error, self.remedy = "failed", event.message, event.remedy
                self._stage = None

    def _begin(self, event: Started) -> None:
        self.started, self._stage = event, None
        self.reason = self.error = self.remedy = ""
        self.history.rewind(event.resumed_at)
        if self._last is not None and self._last.step > event.resumed_at:
            self._last = None
        self.samples = [sample for sample in self.samples if sample.step <= event.resumed_at]
        self.scores = [score for score in self.scores if score.step <= event.resumed_at]

    def progress(self) -> Progress:
        """How far it is."""
        started, last, history = self.started, self._last, self.history
        total = started.total_steps if started else 0
        step = last.step if last else (started.resumed_at if started else 0)
        tokens, seconds = history.speed()
        return Progress(
            step=step,
            total_steps=total,
            epoch=last.epoch if last else 0.0,
            loss=last.loss if last else 0.0,
            smoothed=history.smoothed[-1] if history.smoothed else 0.0,
            learning_rate=last.learning_rate if last else 0.0,
            tokens_per_second=tokens,
            seconds_left=max(0, total - step) * seconds,
            memory_bytes=last.memory_bytes if last else 0,
            predicted_bytes=started.predicted_bytes if started else 0,
            stage=self._stage.text if self._stage else "",
            fraction=self._stage.fraction if self._stage else 0.0,
        )


def _place(sample: Sampled) -> tuple[int, str]:
    return sample.step, sample.prompt
