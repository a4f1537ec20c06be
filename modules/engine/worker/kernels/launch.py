"""`Kernel`: CUDA C++ compiled by NVRTC through torch, and launched through the driver.

torch can launch what it compiles too, but takes 0.1 ms for it, which is three times as long as
a product of a decode step; this takes a tenth of that.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import torch
from torch import Tensor

__all__ = ["Kernel"]


class Kernel:
    """One compiled function on one card. Raises RuntimeError or OSError where it cannot be."""

    def __init__(self, source: str, name: str, device: torch.device) -> None:
        compile_kernel: Any = torch.cuda._compile_kernel
        with torch.cuda.device(device):
            self._compiled = compile_kernel(source, name)  # holds the module that holds the code
        self._driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")

    def launch(self, blocks: int, threads: int, *values: Tensor | int) -> None:
        """Run on the current stream of the current device: a pointer for a tensor, int for int."""
        arguments = [
            ctypes.c_void_p(value.data_ptr()) if isinstance(value, Tensor) else ctypes.c_int(value)
            for value in values
        ]
        pointers = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        status = self._driver.cuLaunchKernel(
            self._compiled.func, blocks, 1, 1, threads, 1, 1, 0, stream, pointers, None
        )
        if status:
            raise RuntimeError(f"The card refused a kernel (CUDA error {status}).")
