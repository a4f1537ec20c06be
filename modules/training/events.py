"""What a run tells: one JSON object a line in `events.jsonl`, read by page and terminal alike.

A line is written whole and flushed, so that whoever reads sees complete events but for perhaps
the last line, which is left until it is. After a resume the steps behind the checkpoint are
told once more; of two events for one step the later counts.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

__all__ = [
    "Evaluated",
    "Event",
    "EventLog",
    "EventReader",
    "Failed",
    "Finished",
    "Sampled",
    "Saved",
    "Scored",
    "Stage",
    "Started",
    "Step",
    "Warned",
]

FinishReason = Literal["done", "stopped", "stop loss", "patience"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened; `time` is in seconds since 1970."""

    kind: ClassVar[str] = ""
    time: float = dataclasses.field(default_factory=time.time)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage(Event):
    """What is being done before, between or after the steps; `fraction` from 0 to 1."""

    kind: ClassVar[str] = "stage"
    text: str
    fraction: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Event):
    """The first step is next. `tokens` are the real ones of an epoch, `computed` all of them.

    `parameters` are those that learn, `how` says how the base is held ("float32", "GPTQ 4-bit,
    dequantized once to bfloat16"), `predicted_bytes` is the memory plan (0: none was made), and
    `resumed_at` the step of the checkpoint that it goes on from.
    """

    kind: ClassVar[str] = "started"
    total_steps: int
    rows: int
    tokens: int
    computed: int
    parameters: int
    how: str
    micro_batch_size: int
    processes: int = 1
    predicted_bytes: int = 0
    resumed_at: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(Event):
    """One step of the optimizer. `loss` is the mean over its learnt tokens.

    `tokens` are its real ones, `seconds` what it took, `memory_bytes` the most that was taken
    on the card (of the process, on the processor) until now.
    """

    kind: ClassVar[str] = "step"
    step: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    seconds: float
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated(Event):
    """The loss on the evaluation set after `step`; `best` if none before was lower."""

    kind: ClassVar[str] = "evaluated"
    step: int
    loss: float
    best: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled(Event):
    """What the model answers to a fixed prompt after `step` (0: before the first)."""

    kind: ClassVar[str] = "sampled"
    step: int
    prompt: str
    reply: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved(Event):
    """A checkpoint was written to `folder`, relative to the run's, and is complete."""

    kind: ClassVar[str] = "saved"
    step: int
    folder: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored(Event):
    """How many of the held-out prompts were answered as they must be, after `step`."""

    kind: ClassVar[str] = "scored"
    step: int
    right: int
    of: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned(Event):
    """Something that people should know, while the run goes on."""

    kind: ClassVar[str] = "warned"
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished(Event):
    """The run is over and `adapter` (a name in loras/) is written."""

    kind: ClassVar[str] = "finished"
    step: int
    reason: FinishReason
    adapter: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Event):
    """The run ended by an error; what was saved before is whole."""

    kind: ClassVar[str] = "failed"
    message: str
    remedy: str = ""


_KINDS: Mapping[str, type[Event]] = {
    event.kind: event
    for event in (
        Stage, Started, Step, Evaluated, Sampled, Saved, Scored, Warned, Finished, Failed,
    )
}  # fmt: skip


class EventLog:
    """The end of `events.jsonl` that a run writes to."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")
        # A line that a killed run left unfinished would swallow the next one.
        if self._file.tell() and not path.read_bytes().endswith(b"\n"):
            self._file.write(b"\n")

    def write(self, event: Event) -> None:
        """Add one event. Raises OSError where the disk is full."""
        entries = {"event": event.kind, **dataclasses.asdict(event)}
        self._file.write(json.dumps(entries, ensure_ascii=False).encode() + b"\n")
        self._file.flush()

    def sync(self) -> None:
        """Make sure that what was written outlives a loss of power."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write no more."""
        self._file.close()


class EventReader:
    """Reads what has come since the last time, from the beginning on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def read(self) -> Iterator[Event]:
        """The new events; lines that are damaged, or of a later version, are left out."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._at)
                lines = file.read()
        except FileNotFoundError:
            return
        complete = lines.rfind(b"\n") + 1
        self._at += complete
        for line in lines[:complete].splitlines():
            event = _event(line)
            if event is not None:
                yield event


def _event(line: bytes) -> Event | None:
    try:
        entries: dict[str, Any] = json.loads(line)
        return _KINDS[entries.pop("event")](**entries)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
