"""Whether an error means that memory ran out; torch says so in several ways."""

from __future__ import annotations

import gc

import torch

from modules.errors import TrainingError

__all__ = ["OUT_OF_MEMORY", "OutOfStepError", "free_memory", "is_out_of_memory"]

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


class OutOfStepError(TrainingError):
    """Memory ran out in a process that the others wait for, so that it cannot try again."""

    def __init__(self) -> None:
        super().__init__(
            "Memory ran out in one of the processes that the base is spread over.",
            "Set a smaller micro_batch_size or cutoff_len, and resume the run.",
        )
