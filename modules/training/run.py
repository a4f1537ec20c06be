"""One training run: `python -m modules.training.run CONFIG.yaml`.

Does what the Training tab does. A config in which numbers are lists is a sweep, whose runs
follow one another. Ctrl+C, or SIGTERM, ends a run with everything saved. The exit status is 0
for a run that is done or was stopped, 1 for one that failed, and 2 for a bad config.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from modules.errors import InvalidInputError, LanternError, StorageError
from modules.loader.adapters import find_adapter
from modules.loader.catalog import find_model
from modules.loader.machine import this_machine
from modules.loader.starter import STARTER, fetch_starter
from modules.paths import safe_child, write_atomically
from modules.settings import ROOT
from modules.training.config import DatasetSource, TrainingConfig
from modules.training.config_yaml import as_yaml, read_configs
from modules.training.dataset import DataFolders, prepare
from modules.training.events import Event, EventLog, Failed, Stage, Warned
from modules.training.launch import EVENTS
from modules.training.lock import hold
from modules.training.trainer.interrupts import Interrupts
from modules.training.trainer.report import Report, open_tracker

__all__ = ["launcher", "main"]

_FOR_TORCH = {
    # Batches differ in length, and memory must not fall to pieces by it.
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
    # Threads that wait let others work, after a moment: beside busy programs, spinning ones made
    # an answer of 16 tokens take 100 times as long.
    "OMP_WAIT_POLICY": "passive",
    "GOMP_SPINCOUNT": "20000",
}


@dataclasses.dataclass(frozen=True, slots=True)
class _Folders:
    models: Path
    loras: Path
    user_data: Path

    def data(self, config_file: Path) -> DataFolders:
        return DataFolders(config_file.parent, self.user_data / "datasets", ROOT)

    def flags(self) -> list[str]:
        pairs = ("--model-dir", self.models), ("--lora-dir", self.loras)
        return [
            str(part)
            for flag, path in (*pairs, ("--user-data-dir", self.user_data))
            for part in (flag, path.absolute())
        ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the arguments say; returns the exit status."""
    options = _parser().parse_args(argv)
    folders = _Folders(options.model_dir, options.lora_dir, options.user_data_dir)
    data = folders.data(options.config.absolute())
    try:
        configs = [_named(c, options.config) for c in read_configs(options.config)]
        runs = _run_folders(configs, options, folders, data)
    except LanternError as error:
        _say(str(error))
        return 2
    if len(runs) > 1:
        return _sweep([folder for _, folder in runs], folders, resume=options.resume)
    ((config, folder),) = runs
    count = _processes(config)
    if count > 1:
        _launch(folder, folders, count, resume=options.resume)
    return _run(config, folder, folders, data, resume=options.resume)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m modules.training.run", description="Train a LoRA as a file says."
    )
    parser.add_argument("config", type=Path, help="the YAML file that describes the run")
    parser.add_argument("--run-dir", type=Path, help="folder of the run", metavar="DIR")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    for flag, name in (("model", "models"), ("lora", "loras"), ("user-data", "user_data")):
        parser.add_argument(f"--{flag}-dir", type=Path, default=ROOT / name, metavar="DIR",
                            help=f"folder {name}")  # fmt: skip
    return parser


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


# -- folders ----------------------------------------------------------------------------


def _named(config: TrainingConfig, file: Path) -> TrainingConfig:
    """A config without a name is called as its file. Raises InvalidInputError."""
    if config.name:
        return config
    return dataclasses.replace(config, name=file.stem)


def _run_folders(
    configs: Sequence[TrainingConfig],
    options: argparse.Namespace,
    folders: _Folders,
    data: DataFolders,
) -> list[tuple[TrainingConfig, Path]]:
    """Each config with the folder of its run, which holds it as config.yaml afterwards.

    Raises LanternError for a name that cannot be a folder's, and where there is a run already.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    runs = []
    for config in configs:
        safe_child(folders.loras, config.name)
        folder = options.run_dir or folders.user_data / "training" / f"{config.name}-{stamp}"
        if options.run_dir and len(configs) > 1:
            folder = safe_child(options.run_dir, config.name)
        folder = folder.absolute()
        if not options.resume and any((folder / "checkpoints").glob("step-*")):
            raise InvalidInputError(
                f"The run {folder.name} has checkpoints already.",
                "Go on with --resume, or choose another --run-dir.",
            )
        if folder / "config.yaml" != options.config.absolute():
            _prepare_folder(folder, _with_whole_paths(config, data))
        runs.append((config, folder))
    return runs


def _prepare_folder(folder: Path, config: TrainingConfig) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "config.yaml", as_yaml(config))
    except OSError as error:
        raise StorageError(
            f"The folder {folder} cannot be written: {error.strerror}.",
            "Make room, or choose another folder with --run-dir.",
        ) from error


def _with_whole_paths(config: TrainingConfig, data: DataFolders) -> TrainingConfig:
    """The config as it means the same in another folder."""

    def whole(path: str) -> str:
        return str(data.find(path).absolute())

    def moved(sources: tuple[DatasetSource, ...]) -> tuple[DatasetSource, ...]:
        return tuple(dataclasses.replace(source, path=whole(source.path)) for source in sources)

    return dataclasses.replace(
        config,
        datasets=moved(config.datasets),
        eval_datasets=moved(config.eval_datasets),
        held_out=whole(config.held_out) if config.held_out else "",
    )


# -- several runs, several cards --------------------------------------------------------


def _sweep(runs: Sequence[Path], folders: _Folders, *, resume: bool) -> int:
    """Each run in a process of its own, one after another; the worst status of them."""
    status = 0
    with Interrupts() as signals:
        for number, folder in enumerate(runs, start=1):
            _say(f"Run {number} of {len(runs)}: {folder.name}")
            process = subprocess.Popen([sys.executable, *_command(folder, folders, resume=resume)])
            signals.forward = process.send_signal
            status = max(status, process.wait())
            if signals.stopped:
                break
    return status


def _command(folder: Path, folders: _Folders, *, resume: bool) -> list[str]:
    config = str(folder / "config.yaml")
    command = ["-m", "modules.training.run", config, "--run-dir", str(folder), *folders.flags()]
    return [*command, "--resume"] if resume else command


def _processes(config: TrainingConfig) -> int:
    """How many processes are still to be started: 0 in one that a launcher has started."""
    if "WORLD_SIZE" in os.environ:
        return 0
    cards = len(this_machine(ROOT).cards)
    return min(cards, config.processes or cards)


def launcher(count: int) -> list[str]:
    """The arguments that make Python start `count` processes of what follows them."""
    return [
        *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"),
        *("--num_processes", str(count), "--mixed_precision", "no", "--dynamo_backend", "no"),
        *("--main_process_port", "0"),  # any that is free
    ]


def _launch(folder: Path, folders: _Folders, count: int, *, resume: bool) -> None:
    """Become the launcher of `count` processes; does not return."""
    command = [*launcher(count), *_command(folder, folders, resume=resume)]
    os.execv(sys.executable, [sys.executable, *command])  # noqa: S606 - argv, no shell


# -- one run ----------------------------------------------------------------------------


def _run(config: TrainingConfig, folder: Path, folders: _Folders, data: DataFolders,
         *, resume: bool) -> int:  # fmt: skip
    """One run in this process; what goes wrong is told as an event, too."""
    first = os.environ.get("RANK", "0") == "0"
    if not first:
        return _guarded(_silent, lambda: _train(config, folder, folders, data, _silent, resume))
    try:
        with hold(folder):
            report = Report(EventLog(folder / EVENTS))
            try:
                return _guarded(
                    report, lambda: _train(config, folder, folders, data, report, resume)
                )
            finally:
                report.close()
    except LanternError as error:
        _say(str(error))
    except OSError as error:
        _say(f"The run cannot write to {folder}: {error.strerror}. Make room on the disk.")
    return 1


def _silent(event: Event) -> None:
    """What processes beside the first report."""


def _guarded(report: Callable[[Event], None], work: Callable[[], None]) -> int:
    try:
        work()
    except LanternError as error:
        failed = Failed(message=error.message, remedy=error.remedy)
    except KeyboardInterrupt:
        failed = Failed(message="The run was interrupted.", remedy="Resume it.")
    except Exception as error:  # noqa: BLE001 - the boundary of the process
        traceback.print_exc()
        failed = _in_a_sentence(error)
    else:
        return 0
    with contextlib.suppress(StorageError):  # a full disk: it is in the log, at least
        report(failed)
    return 1


def _in_a_sentence(error: Exception) -> Failed:
    if "memory" in str(error) and "alloc" in str(error).lower():
        return Failed(
            message="Memory ran out.",
            remedy="Use a smaller micro batch or length, or a 4-bit base, and resume the run.",
        )
    told = next(iter(str(error).splitlines()), "")[:200] or type(error).__name__
    return Failed(message=f"The run broke down: {told}", remedy="Its log.txt says where.")


def _train(
    config: TrainingConfig,
    folder: Path,
    folders: _Folders,
    data: DataFolders,
    report: Callable[[Event], None],
    resume: bool,
) -> None:
    """From the data to the LoRA. Raises LanternError."""

    def stage(text: str, fraction: float) -> None:
        report(Stage(text=text, fraction=fraction))

    with Interrupts() as interrupts:
        base = _base(config.base, folders.models, stage)
        parent = find_adapter(folders.loras, config.continue_from) if config.continue_from else None
        if isinstance(report, Report):
            report.tracker = open_tracker(config, folder)
        prepared = prepare(config, base, data, stage)
        for finding in prepared.lint.findings:
            many = f"{finding.kind}, {finding.count:,} rows. " if finding.count > 1 else ""
            report(Warned(text=many + finding.rows[0]))
        # Not before: bad input is to be told at once.
        stage("Starting torch", 0.0)
        for name, value in _FOR_TORCH.items():
            os.environ.setdefault(name, value)
        from modules.training.trainer.distributed import join
        from modules.training.trainer.session import Job, Session

        world = join()
        try:
            job = Job(config, folder, base, folders.loras, data, parent, resume)
            Session(job, prepared, world, report, lambda: interrupts.stopped).run()
        finally:
            world.leave()


def _base(name: str, models: Path, stage: Callable[[str, float], None]) -> Path:
    """The folder of the base. The starter is fetched if it is not there. Raises LanternError."""
    if not name:
        raise InvalidInputError("There is no base model.", "Set base to a folder in models/.")
    if name == STARTER.name and not (models / name).is_dir():
        return fetch_starter(models, stage)
    return find_model(models, name)


def _leave(status: int) -> NoReturn:
    """End the process; at once where a launcher has started it.

    Of 37 runs of two processes that shared a base, 2 were aborted after all was done, while
    Python was torn down ("terminate called without an active exception"); of 48 that left like
    this, none. Probably the meshes of torch.distributed keep gloo's threads alive until then.
    """
    if "WORLD_SIZE" in os.environ:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    _leave(main())
