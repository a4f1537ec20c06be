"""Whether an error means that memory ran out; torch says so in several ways."""

from __future__ import annotations

import gc

import torch

__all__ = ["OUT_OF_MEMORY", "free_memory", "is_out_of_memory"]

OUT_OF_MEMORY = (torch.OutOfMemoryError, MemoryError, RuntimeError)
"""What to catch before `is_out_of_memory` is asked."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it does; the processor's allocator raises a bare RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    told = str(error)
    return isinstance(error, RuntimeError) and "alloc" in told and "memory" in told


def free_memory() -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
