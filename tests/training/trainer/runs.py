"""Whole runs on a tiny random Llama, and what they told."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from modules.training.events import Event, EventReader, Failed, Finished, Step, Warned
from modules.training.run import main
from tests.training.bases import byte_level_base

__all__ = ["Place", "make_base", "make_rows"]

AnEvent = TypeVar("AnEvent", bound=Event)

ANSWERS = ("the sun", "a river of ice", "nobody", "seven days", "it is green", "blue and red")


def make_base(folder: Path, **changes: Any) -> Path:
    """A two-layer Llama of random weights, with its tokenizer and template."""
    folder.mkdir(parents=True)
    byte_level_base(folder)
    torch.manual_seed(3)
    config = {
        "vocab_size": Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size(),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "tie_word_embeddings": True,
    }
    LlamaForCausalLM(LlamaConfig(**{**config, **changes})).save_pretrained(folder)
    return folder


def make_rows(file: Path, count: int = 24) -> Path:
    """Questions and answers of different lengths."""
    rows = [
        {"instruction": f"What is {'very ' * (i % 5)}{i}?", "output": ANSWERS[i % len(ANSWERS)]}
        for i in range(count)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@dataclass(frozen=True)
class Place:
    """A folder with a base called tiny and rows.jsonl, in which runs take place."""

    root: Path

    def arguments(self, run: str = "run", /, **config: Any) -> list[str]:
        """Of a run called `run`, whose config is written."""
        standard = {"base": "tiny", "datasets": ["rows.jsonl"], "name": "made", "lora_r": 4}
        steps = {"cutoff_len": 64, "overlap_len": 0, "learning_rate": 0.01, "warmup_ratio": 0.0}
        file = self.root / f"{run}.yaml"
        file.write_text(yaml.safe_dump({**standard, **steps, **config}))
        folders = ("--model-dir", "models"), ("--lora-dir", "loras"), ("--user-data-dir", "data")
        flags = [part for flag, child in folders for part in (flag, str(self.root / child))]
        return [str(file), "--run-dir", str(self.folder(run)), *flags]

    def folder(self, name: str = "run") -> Path:
        """The folder of a run."""
        return self.root / "runs" / name

    def run(self, run: str = "run", /, *flags: str, **config: Any) -> int:
        """Run it in this process; its exit status."""
        return main([*self.arguments(run, **config), *flags])

    def told(self, kind: type[AnEvent], name: str = "run") -> list[AnEvent]:
        """What a run told of one kind."""
        events = EventReader(self.folder(name) / "events.jsonl").read()
        return [event for event in events if isinstance(event, kind)]

    def losses(self, name: str = "run") -> dict[int, float]:
        """The loss of each step; what was told again counts."""
        return {step.step: step.loss for step in self.told(Step, name)}

    def steps(self, run: str = "run", /, **config: Any) -> Sequence[Step]:
        """The steps of a run that must succeed."""
        assert self.run(run, **config) == 0, self.told(Failed, run)
        return self.told(Step, run)

    def finished(self, name: str = "run") -> Finished:
        """How a run ended."""
        (end,) = self.told(Finished, name)
        return end

    def failure(self, name: str = "run") -> Failed:
        """Why a run failed."""
        return self.told(Failed, name)[-1]

    def warnings(self, name: str = "run") -> list[str]:
        """What people should know."""
        return [event.text for event in self.told(Warned, name)]

    def json(self, path: str) -> Mapping[str, Any]:
        """A JSON file below the root."""
        content: Mapping[str, Any] = json.loads((self.root / path).read_text())
        return content
