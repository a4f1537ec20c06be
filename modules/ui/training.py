"""What the page shows of trainings: the settings there are, and the runs as they go."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modules.chat.template_library import LIBRARY
from modules.context import AppContext
from modules.errors import InvalidInputError, LanternError, NotFoundError, StorageError
from modules.loader.adapters import list_adapters
from modules.loader.catalog import list_models
from modules.loader.inspect import inspect_checkpoint
from modules.paths import safe_child
from modules.settings import ROOT
from modules.training.config import GROUPS, SIMPLE, TARGETS, TrainingConfig, training_knobs
from modules.training.config_yaml import as_yaml, expand, from_mapping
from modules.training.store import Checkpoint, Run
from modules.ui.model_card import kind_of
from modules.ui.training_sets import data_folders, formats_json, sets_json
from modules.yaml_files import parse_yaml, read_yaml

__all__ = [
    "brief_json",
    "check_json",
    "file_text",
    "read_json",
    "run_json",
    "runs_json",
    "setup_json",
]

_EXAMPLES = ROOT / "training" / "examples"
_FILES = {"config": "config.yaml", "manifest": "manifest.json", "log": "log.txt"}
_SHOWN_BYTES = 200_000
_SPARK = 40
"""Points of the small curve in the list."""


# -- what can be set ----------------------------------------------------------------------


def setup_json(ctx: AppContext) -> dict[str, Any]:
    """Everything that the form is made of. Reads the folders of models, LoRAs and sets."""
    return {
        "groups": GROUPS,
        "simple": SIMPLE,
        "targets": list(TARGETS),
        "fields": _fields(),
        "models": _models(ctx),
        "adapters": [a.name for a in list_adapters(ctx.settings.lora_dir) if not a.problem],
        "templates": [[template.key, template.label] for template in LIBRARY.values()],
        "datasets": sets_json(ctx),
        "formats": formats_json(ctx),
        "examples": _examples(ctx),
    }


def _fields() -> list[dict[str, Any]]:
    standard = TrainingConfig()
    return [
        {
            "name": name,
            "label": knob.label,
            "group": knob.group,
            "help": knob.help,
            "kind": knob.kind,
            "min": knob.minimum,
            "max": knob.maximum,
            "choices": knob.choices,
            "example": knob.example,
            "source": knob.source,
            "default": getattr(standard, name),
        }
        for name, knob in training_knobs().items()
    ]


def _models(ctx: AppContext) -> list[dict[str, str]]:
    found = []
    for entry in list_models(ctx.settings.model_dir):
        kind = "" if entry.problem else kind_of(inspect_checkpoint(entry.path))
        found.append({"name": entry.name, "kind": kind, "problem": entry.problem})
    return found


def _examples(ctx: AppContext) -> list[dict[str, Any]]:
    """The configs that come with Lantern, with paths that hold from everywhere."""
    found = []
    for file in sorted(_EXAMPLES.glob("*.yaml")):
        config = _from_root(read_yaml(file))
        known = {entry.name for entry in list_models(ctx.settings.model_dir)}
        if config.get("base") in known:
            found.append({"name": file.stem, "config": config})
    return found


def _from_root(entries: dict[str, Any]) -> dict[str, Any]:
    """Paths beside an example's file, as seen from Lantern's root."""

    def found(path: str) -> str:
        beside = _EXAMPLES / path
        return str(beside.relative_to(ROOT)) if beside.exists() else path

    for name in ("datasets", "eval_datasets"):
        entries[name] = [
            {**one, "path": found(one["path"])} if isinstance(one, dict) else {"path": found(one)}
            for one in entries.get(name, [])
        ]
        if not entries[name]:
            del entries[name]
    if entries.get("held_out"):
        entries["held_out"] = found(entries["held_out"])
    return entries


# -- a run that is put together -----------------------------------------------------------


def check_json(entries: Mapping[str, Any]) -> dict[str, Any]:
    """The YAML of a draft, the runs that it makes, and what is wrong with it, by its field."""
    try:
        runs = [from_mapping(one) for one in expand(entries)]
    except InvalidInputError as error:
        about = {"message": error.message, "remedy": error.remedy, "field": error.field}
        return {"yaml": _yaml(entries), "runs": 0, "problem": about}
    return {"yaml": _yaml(entries), "runs": len(runs), "problem": None}


def _yaml(entries: Mapping[str, Any]) -> str:
    """As the file has it; a sweep, which is no single config, as it was given."""
    import yaml

    try:
        return as_yaml(from_mapping(entries))
    except InvalidInputError:
        text: str = yaml.safe_dump(dict(entries), allow_unicode=True, sort_keys=False)
        return text


def read_json(text: str) -> dict[str, Any]:
    """The mapping in a YAML text, checked. Raises SettingsError and InvalidInputError."""
    entries = parse_yaml(text.encode(), "The file")
    for one in expand(entries):
        from_mapping(one)
    return {"config": entries}


# -- the runs -----------------------------------------------------------------------------


def brief_json(ctx: AppContext, *, admin: bool) -> dict[str, Any]:
    """What every tab is told when something changes; the Training tab then asks for more."""
    run_id = ctx.training.current
    if not run_id:
        return {"running": None, "note": ctx.training.note if admin else ""}
    try:
        run = ctx.training.store.get(run_id)
    except LanternError:  # deleted meanwhile
        return {"running": None, "note": ""}
    progress = run.progress
    share = progress.step / progress.total_steps if progress.total_steps else 0.0
    figures = f"loss {progress.smoothed:.3g}" if progress.step else progress.stage
    return {
        "running": {
            "id": run.id if admin else "",
            "name": run.config.name if admin else "",
            "fraction": share if progress.step else progress.fraction,
            "stage": figures if admin else "",
            "aside": ctx.training.stepped_aside,
        },
        "note": ctx.training.note if admin else "",
    }


def runs_json(ctx: AppContext) -> dict[str, Any]:
    """All runs, the newest first, as the list shows them."""
    store = ctx.training.store
    runs = []
    for run in store.list():
        spark = store.curves(run.id, _SPARK).smoothed
        runs.append(_row_json(ctx, run) | {"spark": spark})
    return {"runs": runs, "note": ctx.training.note, "aside": ctx.training.stepped_aside}


def _row_json(ctx: AppContext, run: Run) -> dict[str, Any]:
    progress = run.progress
    # Whoever has seen a run with this mark has seen it as it is now.
    mark: list[object] = [
        run.state,
        run.place,
        progress.step,
        progress.stage,
        progress.fraction,
        run.adapter,
    ]
    mark += [len(run.samples), [point.step for point in run.checkpoints], len(run.scores)]
    return {
        "id": run.id,
        "name": run.config.name or run.id,
        "base": run.config.base,
        "state": run.state,
        "created": run.created,
        "place": run.place,
        "resuming": run.resuming,
        "step": progress.step,
        "total": progress.total_steps,
        "loss": progress.smoothed,
        "adapter": run.adapter,
        "blocked": _blocked(ctx, run),
        "mark": repr(mark),
    }


def _blocked(ctx: AppContext, run: Run) -> str:
    """Why a run that broke off cannot go on; empty where it can, or need not."""
    if run.state not in ("stopped", "failed", "lost"):
        return ""
    if not (ctx.settings.model_dir / Path(run.config.base).name).is_dir():
        return f"It cannot go on: its base {run.config.base} is no longer in models/."
    folders = data_folders(ctx)
    for source in run.config.datasets:
        try:
            folders.find(source.path)
        except LanternError as error:
            return f"It cannot go on: {error.message}"
    return ""


def run_json(ctx: AppContext, run_id: str) -> dict[str, Any]:
    """One run with its curves, checkpoints and samples. Raises NotFoundError."""
    store = ctx.training.store
    run = store.get(run_id)
    about = {
        "progress": dataclasses.asdict(run.progress),
        "started": dataclasses.asdict(run.started) if run.started else None,
        "checkpoints": [_checkpoint_json(point) for point in run.checkpoints],
        "samples": [{"step": s.step, "prompt": s.prompt, "reply": s.reply} for s in run.samples],
        "scores": [{"step": s.step, "right": s.right, "of": s.of} for s in run.scores],
        "warnings": run.warnings,
        "reason": run.reason,
        "error": run.error,
        "remedy": run.remedy,
        "stop_at_loss": run.config.stop_at_loss,
        "curves": dataclasses.asdict(store.curves(run_id)),
    }
    return _row_json(ctx, run) | about


def _checkpoint_json(point: Checkpoint) -> dict[str, Any]:
    return {
        "step": point.step,
        "size": point.size_bytes,
        "best": point.best,
        "latest": point.latest,
        "loss": point.loss,
    }


def _file(ctx: AppContext, run_id: str, file: str) -> Path:
    if file != "card":
        return ctx.training.store.path(run_id) / _FILES[file]
    adapter = ctx.training.store.get(run_id).adapter
    if not adapter:
        raise NotFoundError("The run has made no LoRA.", "Its model card comes with it.")
    return safe_child(ctx.settings.lora_dir, adapter) / "README.md"


def file_text(ctx: AppContext, run_id: str, file: str) -> str:
    """What a file of a run holds, or "card", that of its LoRA; of a long one its end.

    Empty where it is not there yet. Raises NotFoundError and StorageError.
    """
    path = _file(ctx, run_id, file)
    try:
        with path.open("rb") as opened:
            size = opened.seek(0, 2)
            opened.seek(max(0, size - _SHOWN_BYTES))
            text = opened.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise StorageError(
            f"{path.name} cannot be read: {error.strerror}.", "Make it readable."
        ) from error
    return text if size <= _SHOWN_BYTES else f"…\n{text.partition(chr(10))[2]}"
