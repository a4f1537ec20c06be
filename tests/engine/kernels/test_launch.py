"""Compiled kernels are found again on the disk, and whatever is wrong there costs a compile."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from modules.engine.worker.kernels import launch
from modules.engine.worker.kernels.launch import Kernel, compiled

card = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA card")

SOURCE = """
extern "C" __global__ void scale(float* x, int count, float by) {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) x[i] *= by;
}
"""


class Compiler:
    """Counts what it is asked for; `version` is that of the compiler."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.version = 13

    def nvrtcVersion(self, major: Any, minor: Any) -> None:  # noqa: N802 - its name there
        ctypes.cast(major, ctypes.POINTER(ctypes.c_int)).contents.value = self.version

    def compile(self, nvrtc: Any, source: str, architecture: str) -> bytes:
        self.asked.append(source)
        return f"code of {source} for {architecture} by {self.version}".encode()


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "kernels"
    monkeypatch.setattr(launch, "_KEPT", folder)
    return folder


@pytest.fixture
def compiler(kept: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    compiler = Compiler()
    monkeypatch.setattr(launch, "_nvrtc", lambda: compiler)
    monkeypatch.setattr(launch, "_compile", compiler.compile)
    return compiler


def test_a_source_is_compiled_once(compiler: Compiler) -> None:
    first = compiled("a", "sm_90")
    assert first == b"code of a for sm_90 by 13"
    assert compiled("a", "sm_90") == first
    assert compiler.asked == ["a"]


def test_another_source_card_or_compiler_is_another_kernel(compiler: Compiler) -> None:
    found = [compiled("a", "sm_90"), compiled("b", "sm_90"), compiled("a", "sm_80")]
    compiler.version = 14
    found.append(compiled("a", "sm_90"))
    assert len(set(found)) == len(compiler.asked) == 4


def test_a_folder_that_cannot_be_written_costs_a_compile_each_time(
    kept: Path, compiler: Compiler
) -> None:
    kept.write_text("a file in the place of the folder")
    for _ in range(2):
        assert compiled("a", "sm_90") == b"code of a for sm_90 by 13"
    assert compiler.asked == ["a", "a"]


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-3]])
def test_a_damaged_file_costs_a_compile(
    kept: Path, compiler: Compiler, damage: Callable[[bytes], bytes]
) -> None:
    first = compiled("a", "sm_90")
    (file,) = kept.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    for _ in range(2):
        assert compiled("a", "sm_90") == first
    assert compiler.asked == ["a", "a"]


def scaled(by: float) -> list[float]:
    kernel = Kernel(SOURCE, "scale", torch.device("cuda", 0))
    x = torch.arange(1.0, 6.0, device="cuda")
    kernel.launch((1, 1, 1), 32, x, 4, by)
    return x.tolist()


@pytest.mark.gpu
@card
def test_a_second_start_runs_what_the_first_one_compiled(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert scaled(3.0) == [3, 6, 9, 12, 5]
    assert len(list(kept.iterdir())) == 1

    def refuse(*about: Any) -> bytes:
        raise AssertionError("it was compiled again")

    monkeypatch.setattr(launch, "_compile", refuse)
    assert scaled(0.5) == [0.5, 1, 1.5, 2, 5]


@pytest.mark.gpu
@card
def test_a_damaged_file_is_replaced_by_code_that_runs(kept: Path) -> None:
    scaled(3.0)
    (file,) = kept.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert scaled(3.0) == [3, 6, 9, 12, 5]


@pytest.mark.gpu
@card
@pytest.mark.usefixtures("kept")
def test_what_does_not_compile_is_told_in_the_words_of_the_compiler() -> None:
    with pytest.raises(RuntimeError, match="undefined_name"):
        Kernel(SOURCE.replace("count)", "undefined_name)"), "scale", torch.device("cuda", 0))
