"""Model cards: the README.md that says where a LoRA, or a model that it was merged into, is from.

Everything in it is from the manifest and the events of the run, so that another can repeat it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modules.training.config import TrainingConfig, training_knobs
from modules.training.curves import Curves
from modules.training.progress import Told

__all__ = ["adapter_card", "curves_of", "merged_card"]

_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDTH = 60
_LEFT_OUT = {"name", "base", "datasets", "eval_datasets", "sample_prompts", "held_out"}


def curves_of(run: Path) -> Curves:
    """What the run in a folder has told of its losses; empty where there are no events."""
    told = Told(run / "events.jsonl")
    told.read()
    return told.history.curves(10_000)


def adapter_card(
    name: str, manifest: Mapping[str, Any], curves: Curves | None = None, scores: str = ""
) -> str:
    """The card of the LoRA `name`. `scores` is a sentence about held-out prompts."""
    base = _text(manifest.get("base"))
    front = _front(base, "peft", "lora")
    how = f"""## Using it

In Lantern: choose {name} among the LoRAs of the Model tab. With PEFT:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained({json.dumps(base)}, dtype="auto")
model = PeftModel.from_pretrained(base, {json.dumps(name)})
tokenizer = AutoTokenizer.from_pretrained({json.dumps(base)})
```
"""
    intro = f"A LoRA over `{base}`, trained with Lantern."
    return _card(front, name, [intro, how, *_about(manifest, curves, scores)])


def merged_card(
    name: str, manifest: Mapping[str, Any], curves: Curves | None = None, notes: Sequence[str] = ()
) -> str:
    """The card of a model that a LoRA was merged into; `notes` say what that cost."""
    base = _text(manifest.get("base"))
    how = f"""## Using it

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({json.dumps(name)}, dtype="auto")
tokenizer = AutoTokenizer.from_pretrained({json.dumps(name)})
```
"""
    adapter = _text(manifest.get("adapter"))
    what = f"the LoRA `{adapter}`" if adapter else "a LoRA"
    intro = " ".join([f"`{base}` with {what} merged into its weights.", *notes])
    return _card(
        _front(base, "transformers", "merge"), name, [intro, how, *_about(manifest, curves, "")]
    )


def _card(front: str, name: str, parts: Sequence[str]) -> str:
    sections = [part.strip() for part in parts if part.strip()]
    return "\n\n".join([front, f"# {name}", *sections]) + "\n"


def _front(base: str, library: str, tag: str) -> str:
    # A JSON string is a YAML string too, whatever stands in it.
    return f"---\nbase_model: {json.dumps(base)}\nlibrary_name: {library}\ntags:\n- {tag}\n---"


def _about(manifest: Mapping[str, Any], curves: Curves | None, scores: str) -> list[str]:
    return [
        _data(manifest),
        _ancestry(manifest),
        _losses(curves, scores),
        _settings(manifest),
        _versions(manifest),
    ]


def _data(manifest: Mapping[str, Any]) -> str:
    rows = [
        (_text(one.get("name")), f"{one.get('rows', 0):,}", _text(one.get("sha256")))
        for one in _objects(manifest.get("data"))
    ]
    base = _text(manifest.get("base_sha256"))
    told = f"\n\nFingerprint of the base: `{base}`." if base else ""
    if not rows:
        return f"## Data{told}" if told else ""
    return f"## Data\n\n{_table(('File', 'Rows', 'SHA-256'), rows)}{told}"


def _ancestry(manifest: Mapping[str, Any]) -> str:
    lines = [
        f"{number}. `{_text(one.get('adapter'))}`, SHA-256 `{_text(one.get('sha256'))}`, on "
        + (", ".join(_text(file.get("name")) for file in _objects(one.get("data"))) or "other data")
        for number, one in enumerate(_objects(manifest.get("ancestry")), 1)
    ]
    return "## Continued from\n\n" + "\n".join(lines) if lines else ""


def _losses(curves: Curves | None, scores: str) -> str:
    if curves is None or not curves.steps:
        return f"## Result\n\n{scores}" if scores else ""
    lines = [
        f"After {curves.steps[-1]:,} steps the smoothed loss is {curves.smoothed[-1]:.4f} "
        f"(it began at {curves.smoothed[0]:.4f})."
    ]
    if curves.evaluated:
        best = min(curves.evaluated, key=lambda point: point[1])
        lines.append(f"The lowest evaluation loss is {best[1]:.4f}, after step {best[0]:,}.")
    if scores:
        lines.append(scores)
    low, high = min(curves.smoothed), max(curves.smoothed)
    line = _line(curves.smoothed)
    return (
        "## Result\n\n" + " ".join(lines) + f"\n\n```\n{high:8.4f}\n{'':8} {line}\n{low:8.4f}\n```"
    )


def _line(values: Sequence[float]) -> str:
    """A curve of at most 60 characters."""
    low, high = min(values), max(values)
    width = min(_WIDTH, len(values))
    chosen = [values[(i * (len(values) - 1)) // max(1, width - 1)] for i in range(width)]
    top = len(_BLOCKS) - 1
    return "".join(_BLOCKS[round(top * (v - low) / ((high - low) or 1))] for v in chosen)


def _settings(manifest: Mapping[str, Any]) -> str:
    """The settings that are not as they would be by themselves, and those of the simple view."""
    config = manifest.get("config")
    if not isinstance(config, dict):
        return ""
    standard = dataclasses.asdict(TrainingConfig())
    always = {"lora_r", "lora_alpha", "target_modules", "learning_rate", "epochs", "seed"}
    rows = []
    for key in training_knobs():
        value = config.get(key)
        plain = tuple(value) if isinstance(value, list) else value
        if key in _LEFT_OUT or key not in config:
            continue
        if key in always or plain != standard[key]:
            shown = ", ".join(map(str, plain)) if isinstance(plain, tuple) else str(plain)
            rows.append((key, _text(shown)))
    return f"## Settings\n\n{_table(('Setting', 'Value'), rows)}"


def _versions(manifest: Mapping[str, Any]) -> str:
    versions = manifest.get("versions")
    if not isinstance(versions, dict):
        return ""
    listed = ", ".join(f"{_text(name)} {_text(number)}" for name, number in versions.items())
    return f"Made with {listed}."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _objects(value: Any) -> list[Mapping[str, Any]]:
    listed = value if isinstance(value, list) else []
    return [entry for entry in listed if isinstance(entry, dict)]


def _text(value: Any) -> str:
    """A value on one line, which ends no cell and begins no other Markdown."""
    text = " ".join(str(value).split()) if value is not None else ""
    return text.replace("`", "'").replace("|", "\\|").replace("<", "&lt;")[:300]
