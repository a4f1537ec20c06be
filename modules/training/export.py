"""Whole models of LoRAs: `python -m modules.training.export RUN_OR_LORA --to models/NAME`.

Writes a folder that Lantern and plain transformers load: 16-bit safetensors with the LoRA in
them, the base's configuration and tokenizer, and a model card. Over a quantized base it also
says what merging onto its dequantized weights costs in perplexity.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.errors import (
    AdapterError,
    InvalidInputError,
    LanternError,
    NotFoundError,
    StorageError,
)
from modules.loader.adapters import MANIFEST, AdapterCheck, check_adapter, find_adapter
from modules.loader.applicable import is_quantized
from modules.loader.catalog import find_model_or_path
from modules.loader.checkpoint import check_checkpoint
from modules.loader.inspect import Inspection
from modules.loader.publish import publish
from modules.paths import safe_child
from modules.settings import ROOT
from modules.training.card import curves_of, merged_card
from modules.training.config import DatasetSource, TrainingConfig
from modules.training.config_yaml import read_configs
from modules.training.curves import Curves
from modules.training.dataset import DataFolders, prepare
from modules.training.store import RunStore

if TYPE_CHECKING:
    from modules.training.masking import Masked

__all__ = ["ExportFolders", "Exported", "Subject", "export", "find_subject", "main"]

_COPIED = re.compile(
    r"tokenizer.*|special_tokens_map\.json|added_tokens\.json|vocab\..*|merges\.txt|.*\.model"
    r"|chat_template.*|generation_config\.json|LICEN[CS]E.*|USE_POLICY.*"
)
_DTYPES = ("automatic", "bfloat16", "float16", "float32")
_SPARE = 1.02
"""What a file system takes beside the bytes of a file."""

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class ExportFolders:
    """Where bases and results, LoRAs, and runs and data are."""

    models: Path
    loras: Path
    user_data: Path


@dataclass(frozen=True, slots=True)
class Subject:
    """What is exported: the `adapter`'s folder, and the `run` that made it, where that is known."""

    adapter: Path
    run: Path | None


@dataclass(frozen=True, slots=True)
class Exported:
    """The folder of the model, and sentences about it."""

    path: Path
    size_bytes: int
    notes: tuple[str, ...]


def find_subject(name: str, checkpoint: int | None, folders: ExportFolders) -> Subject:
    """The run or LoRA called `name`, or the folder of one.

    Of a run it is the checkpoint after the given step, else what it made in loras/, else its
    best checkpoint, else its last. Raises NotFoundError and AdapterError.
    """
    store = RunStore(folders.user_data / "training")
    path = Path(name).expanduser()
    if (path / "config.yaml").is_file():
        return _of_run(RunStore(path.absolute().parent), path.absolute().name, checkpoint, folders)
    if re.search(r"[/\\]", name) is None and name in store.ids():
        return _of_run(store, name, checkpoint, folders)
    if checkpoint is not None:
        raise NotFoundError(f"There is no run {name}.", "A LoRA has no checkpoints; name its run.")
    adapter = path.absolute() if path.is_dir() else find_adapter(folders.loras, name)
    run = _read(adapter / MANIFEST).get("run")
    known = isinstance(run, str) and run in store.ids()
    return Subject(adapter, store.path(str(run)) if known else None)


def _of_run(
    store: RunStore, run_id: str, checkpoint: int | None, folders: ExportFolders
) -> Subject:
    run = store.get(run_id)
    by_step = {one.step: one.path for one in run.checkpoints}
    if checkpoint is not None:
        if checkpoint not in by_step:
            there = ", ".join(map(str, by_step)) or "none"
            raise NotFoundError(
                f"{run_id} has no checkpoint after step {checkpoint}.", f"There are: {there}."
            )
        return Subject(by_step[checkpoint], run.folder)
    if run.adapter and (folders.loras / run.adapter).is_dir():
        return Subject(folders.loras / run.adapter, run.folder)
    if not by_step:
        raise NotFoundError(f"{run_id} has saved nothing yet.", "Wait for its first checkpoint.")
    best = [one.path for one in run.checkpoints if one.best]
    return Subject((best or [by_step[max(by_step)]])[0], run.folder)


def export(
    subject: Subject,
    target: Path,
    folders: ExportFolders,
    *,
    base: str = "",
    dtype: str = "automatic",
    text: Path | None = None,
    compared: bool = True,
    progress: Progress = lambda stage, fraction: None,
) -> Exported:
    """Merge the LoRA into its base, or the one called `base`, as the new folder `target`.

    `text` is what perplexities are compared on, instead of the run's evaluation rows. Raises
    LanternError for whatever is missing or does not fit, and StorageError for a full disk;
    a folder appears under its name only when all of it is there.
    """
    if target.exists():
        raise InvalidInputError(
            f"There is a folder {target.name} already.", "Choose another name.", "to"
        )
    inspection, check = _base(subject, base, folders)
    notes = [check.warning] if check.warning else []
    chosen = _dtype(inspection, dtype)
    _require_space(inspection, target, chosen)
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".exporting-") as hidden:
            output = Path(hidden) / target.name
            output.mkdir()
            size = _write(inspection, check, output, chosen, progress)
            if is_quantized(inspection) and compared:
                progress("Comparing perplexities", 1.0)
                notes.append(_cost(inspection, subject, output, folders, text))
            card = merged_card(target.name, _manifest(subject, inspection), _curves(subject), notes)
            (output / "README.md").write_text(card, "utf-8")
            publish(output, target)
    except OSError as error:
        raise StorageError(
            f"{target.name} could not be written: {error.strerror or error}.",
            "Make room on the disk, or make the folder writable.",
        ) from error
    return Exported(target, size, tuple(notes))


def _base(subject: Subject, name: str, folders: ExportFolders) -> tuple[Inspection, AdapterCheck]:
    trained_on = check_adapter(subject.adapter).base
    if not (name or trained_on):
        raise AdapterError(f"{subject.adapter.name} names no base.", "Name it with --base.")
    folder = find_model_or_path(folders.models, name or re.split(r"[/\\]", trained_on)[-1])
    inspection = check_checkpoint(folder)
    if inspection.weights[0].suffix == ".gguf":
        raise InvalidInputError(
            f"{inspection.name} is a GGUF file, which no LoRA can be merged into.",
            "Merge into its 16-bit original, with --base.",
        )
    return inspection, check_adapter(subject.adapter, folder)


def _dtype(base: Inspection, wanted: str) -> str:
    if wanted != "automatic":
        return wanted
    return base.dtype if base.dtype in ("bfloat16", "float16") else "bfloat16"


def _require_space(base: Inspection, target: Path, dtype: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    needed = round(base.parameters * (4 if dtype == "float32" else 2) * _SPARE)
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise StorageError(
            f"{target.name} needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free.",
            "Make room on the disk, or give a folder on another one.",
        )


def _write(
    base: Inspection, check: AdapterCheck, output: Path, dtype: str, progress: Progress
) -> int:
    import torch

    from modules.training.trainer.merge import merge

    merged = merge(base, check, output, getattr(torch, dtype), progress)
    for file in sorted(base.path.iterdir()):
        if file.is_file() and _COPIED.fullmatch(file.name):
            shutil.copyfile(file, output / file.name)
    config = _read(base.path / "config.json")
    for key in ("quantization_config", "compression_config", "torch_dtype", "dtype"):
        config.pop(key, None)
    # The name that transformers 4 knows; 5 reads both.
    config["torch_dtype"] = dtype
    if merged.untied:
        config["tie_word_embeddings"] = False
    (output / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    return merged.size_bytes


# -- what it cost -----------------------------------------------------------------------


def _cost(
    base: Inspection, subject: Subject, output: Path, folders: ExportFolders, text: Path | None
) -> str:
    """A sentence with both perplexities, or why there are none."""
    from modules.training.trainer.perplexity import compare

    try:
        rows = _rows(base, subject, folders, text)
        return compare(base.path, subject.adapter, output, rows).sentence
    except LanternError as error:
        return f"Perplexities were not compared: {error}"


def _rows(
    base: Inspection, subject: Subject, folders: ExportFolders, text: Path | None
) -> Sequence[Masked]:
    """The run's evaluation rows, its training rows where it has none, or those of `text`."""
    place = subject.run or Path.cwd()
    data = DataFolders(place, folders.user_data / "datasets", ROOT)
    if text is not None:
        source = DatasetSource(str(text.absolute()))
        return prepare(TrainingConfig(datasets=(source,)), base.path, data).train
    if subject.run is None:
        raise InvalidInputError("The run of the LoRA is not here.", "Give a text with --text.")
    config = read_configs(subject.run / "config.yaml")[0]
    prepared = prepare(replace(config, base=base.name), base.path, data)
    return prepared.evaluation if len(prepared.evaluation) else prepared.train


# -- where it is from -------------------------------------------------------------------


def _manifest(subject: Subject, base: Inspection) -> Mapping[str, Any]:
    run = _read(subject.run / "manifest.json") if subject.run else {}
    about = {**run, **_read(subject.adapter / MANIFEST)}
    about.setdefault("base", base.name)
    about["adapter"] = subject.adapter.name
    return about


def _curves(subject: Subject) -> Curves | None:
    return curves_of(subject.run) if subject.run else None


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


# -- the command ------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Export what the arguments say; returns the exit status, which is 1 where it failed."""
    flags = _parser().parse_args(argv)
    folders = ExportFolders(flags.model_dir, flags.lora_dir, flags.user_data_dir)
    try:
        exported = export(
            find_subject(flags.subject, flags.checkpoint, folders),
            _target(flags.to, folders),
            folders,
            base=flags.base,
            dtype=flags.dtype,
            text=flags.text,
            compared=not flags.no_perplexity,
            progress=_Printer(),
        )
    except LanternError as error:
        _say(str(error))
        return 1
    for note in exported.notes:
        _say(note)
    _say(f"Exported to {exported.path} ({exported.size_bytes / 1e9:.2f} GB).")
    return 0


def _target(text: str, folders: ExportFolders) -> Path:
    """The folder to make: a name in models/, models/NAME, or a path."""
    path = Path(text).expanduser()
    parent = folders.models if str(path.parent) in (".", "models") else path.absolute().parent
    return safe_child(parent, path.name)


class _Printer:
    """One line for each hundredth, which a page can follow as well as a person."""

    def __init__(self) -> None:
        self._told = -1

    def __call__(self, stage: str, fraction: float) -> None:
        if (share := int(100 * fraction)) != self._told:
            self._told = share
            _say(f"{share:3} % {stage}")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m modules.training.export",
        description="Merge a LoRA into its base: a whole 16-bit model in models/.",
    )
    parser.add_argument("subject", metavar="RUN_OR_LORA", help="a run, a LoRA, or its folder")
    parser.add_argument("--to", required=True, metavar="NAME", help="the folder to make in models/")
    parser.add_argument("--checkpoint", type=int, metavar="N", help="of a run, that after step N")
    parser.add_argument("--base", default="", metavar="MODEL", help="another base in models/")
    parser.add_argument("--dtype", choices=_DTYPES, default="automatic", help="of the weights")
    parser.add_argument("--text", type=Path, metavar="FILE", help="to compare perplexities on")
    parser.add_argument("--no-perplexity", action="store_true", help="do not compare perplexities")
    for flag, name in (("model", "models"), ("lora", "loras"), ("user-data", "user_data")):
        parser.add_argument(
            f"--{flag}-dir", type=Path, default=ROOT / name, metavar="DIR", help=f"folder {name}"
        )
    return parser


if __name__ == "__main__":
    # So that what is half written is deleted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
