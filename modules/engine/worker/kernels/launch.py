"""`Kernel`: CUDA C++ compiled by NVRTC, which comes with torch, and launched through the driver.

Compiled code is kept on disk, so that a second start compiles nothing. torch can launch what it
compiles too, but takes 0.1 ms for it; this takes less than a tenth of that.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modules.paths import write_atomically

__all__ = ["Kernel", "compiled"]

log = logging.getLogger(__name__)

_KEPT = Path(__file__).resolve().parents[4] / "user_data" / "kernels"
_PROGRAMMATIC_SERIALIZATION = 6  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_BETWEEN = b"\n"
_PLAIN_SHARED = 40 * 1024  # of 48 KB, as what a kernel declares by itself counts as well
_MOST_VALUES = 32


class Kernel:
    """One function on one card. Raises RuntimeError or OSError where it cannot be compiled.

    On Hopper and later a launch may begin while the kernel before it still runs (programmatic
    dependent launch), so every kernel waits with `griddepcontrol.wait` before it touches what
    another one writes or reads. That hides some 1.2 us of each of the hundreds of launches.
    """

    def __init__(
        self,
        source: str,
        name: str,
        device: torch.device,
        defines: Mapping[str, int] | None = None,
    ) -> None:
        major, minor = torch.cuda.get_device_capability(device)
        head = "".join(f"#define {key} {value}\n" for key, value in (defines or {}).items())
        code = compiled(head + source, f"sm_{major}{minor}")
        self._driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        self._module, self._function = ctypes.c_void_p(), ctypes.c_void_p()
        with torch.cuda.device(device):
            torch.cuda.current_stream().query()  # there is a context from here on
            self._check(self._driver.cuModuleLoadData(ctypes.byref(self._module), code))
        self._check(
            self._driver.cuModuleGetFunction(
                ctypes.byref(self._function), self._module, name.encode()
            )
        )
        self._launch = self._driver.cuLaunchKernelEx
        self._card = torch.cuda.current_device() if device.index is None else device.index
        self._shared = _PLAIN_SHARED
        # What a launch says is written into the same places each time; the driver copies it.
        self._attributes = _Attribute(id=_PROGRAMMATIC_SERIALIZATION, value=1)
        listed = ctypes.addressof(self._attributes)
        self._config = _Config(attributes=listed, count=int(major >= 9), block_y=1, block_z=1)
        self._config_at = ctypes.byref(self._config)
        self._values: Any = (ctypes.c_uint64 * _MOST_VALUES)()
        first = ctypes.addressof(self._values)
        places = (first + 8 * number for number in range(_MOST_VALUES))
        self._pointers = (ctypes.c_void_p * _MOST_VALUES)(*places)

    def launch(
        self,
        grid: tuple[int, int, int],
        threads: int,
        *values: Tensor | int | float,
        shared: int = 0,
    ) -> None:
        """Run on the current stream of the card.

        A tensor is passed as its pointer, an int as int (not below 0) or as the pointer that it
        is, a float as float; `shared` is dynamic shared memory in bytes.
        """
        if shared > self._shared:
            attribute = self._driver.cuFuncSetAttribute
            self._check(attribute(self._function, _MAX_DYNAMIC_SHARED, shared))
            self._shared = shared
        places = self._values
        for number, value in enumerate(values):
            if type(value) is int:
                places[number] = value
            elif isinstance(value, Tensor):
                places[number] = value.data_ptr()
            else:
                places[number] = _bits(value)
        config = self._config
        config.grid_x, config.grid_y, config.grid_z = grid
        config.block_x, config.shared = threads, shared
        config.stream = torch._C._cuda_getCurrentRawStream(self._card)
        self._check(self._launch(self._config_at, self._function, self._pointers, None))

    def _check(self, status: int) -> None:
        if status:
            raise RuntimeError(f"The card refused a kernel (CUDA error {status}).")


def compiled(source: str, architecture: str) -> bytes:
    """Machine code for an architecture such as sm_90, from the disk where it is there.

    Raises RuntimeError with the compiler's words, or OSError where there is no compiler.
    """
    nvrtc = _nvrtc()
    major, minor = ctypes.c_int(), ctypes.c_int()
    nvrtc.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    said = f"{source}\0{architecture}\0{major.value}.{minor.value}"
    kept = _KEPT / f"{hashlib.sha256(said.encode()).hexdigest()}.cubin"
    try:
        digest, code = kept.read_bytes().split(_BETWEEN, 1)
        if digest == _digest(code):
            return code
    except (OSError, ValueError):  # it is not there, or damaged
        pass
    code = _compile(nvrtc, source, architecture)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, _digest(code) + _BETWEEN + code)
    except OSError as error:
        log.info("A compiled kernel could not be kept: %s", error)
    return code


def _digest(code: bytes) -> bytes:
    return hashlib.sha256(code).hexdigest().encode()


def _compile(nvrtc: Any, source: str, architecture: str) -> bytes:
    program = ctypes.c_void_p()
    made = nvrtc.nvrtcCreateProgram
    if made(ctypes.byref(program), source.encode(), b"lantern.cu", 0, None, None):
        raise RuntimeError("The kernel compiler did not take the source.")
    try:
        options = [f"--gpu-architecture={architecture}".encode(), b"--std=c++17"]
        failed = nvrtc.nvrtcCompileProgram(
            program, len(options), (ctypes.c_char_p * len(options))(*options)
        )
        if failed:
            log_text = _bytes(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
            raise RuntimeError(f"A kernel does not compile: {log_text.decode(errors='replace')}")
        return _bytes(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _bytes(size_of: Any, get: Any, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    size_of(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    get(program, buffer)
    return buffer.raw


def _nvrtc() -> ctypes.CDLL:
    """The compiler of the CUDA that torch was built for; torch has loaded it or can be asked."""
    version = (torch.version.cuda or "").partition(".")[0]
    name = f"nvrtc64_{version}0_0.dll" if sys.platform == "win32" else f"libnvrtc.so.{version}"
    try:
        return ctypes.CDLL(name)
    except OSError:
        torch.cuda._utils._get_nvrtc_library()  # raises OSError with a sentence of its own
        raise


def _bits(value: float) -> int:
    """The bits of a number as float32."""
    bits: int = struct.unpack("<I", struct.pack("<f", value))[0]
    return bits


class _Attribute(ctypes.Structure):
    """CUlaunchAttribute: a number, and a union of 64 bytes."""

    _fields_ = (
        ("id", ctypes.c_int),
        ("pad", ctypes.c_int),
        ("value", ctypes.c_int),
        ("rest", ctypes.c_int * 15),
    )


class _Config(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = (
        *((f"grid_{axis}", ctypes.c_uint) for axis in "xyz"),
        *((f"block_{axis}", ctypes.c_uint) for axis in "xyz"),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("count", ctypes.c_uint),
    )
