"""`Chooser`: the next token of many rows by one kernel, for the parameters that most have.

These are bans of a few tokens, the penalties, a temperature, top k, top p and min p, in their usual
order; see choose.cu for the formulas. Everything else goes through the steps of sampling/batch,
which are the reference.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modules.engine.worker.kernels.launch import Kernel

__all__ = ["MOST_BANS", "MOST_K", "Choice", "Chooser", "Counts"]

MOST_K = 256
MOST_BANS = 16

_SOURCE = Path(__file__).with_name("choose.cu")
_THREADS = 1024
_STATIC = 20 * 1024  # bytes of shared memory that the kernel has besides


@dataclass(frozen=True, slots=True)
class Choice:
    """The parameters of one row; `dropped` is 1 - top_p, and -1 keeps all."""

    repetition: float
    presence: float
    frequency: float
    divisor: float
    dropped: float
    min_p: float
    top_k: int
    bans: Sequence[int]

    @property
    def packed(self) -> bytes:
        """As choose.cu has them."""
        numbers = (self.repetition, self.presence, self.frequency, self.divisor)
        cuts = (self.dropped, self.min_p, self.top_k, len(self.bans))
        return struct.pack("<6f2i", *numbers, *cuts)


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """How often each token occurred: float32, the row's from `begins` int64 [rows] on."""

    table: Tensor
    begins: Tensor


class Chooser:
    """The kernel for one size of vocabulary, compiled when it is first wanted."""

    def __init__(self, vocab: int, device: torch.device) -> None:
        about: Any = torch.cuda.get_device_properties(device)
        room = about.shared_memory_per_block_optin - _STATIC
        self._vocab = vocab
        cached = 4 * vocab <= room
        self._shared = 4 * vocab if cached else 0
        source = _SOURCE.read_text(encoding="utf-8")
        self._kernel = Kernel(source, "choose", device, {"CACHED": int(cached)})

    def __call__(
        self,
        logits: Tensor,
        places: Tensor | None,
        params: Tensor,
        bans: Tensor,
        uniforms: Tensor,
        counts: Counts | None,
    ) -> Tensor:
        """int64 [n] of logits float32 [rows, vocab].

        `places` int64 [n] are the rows, None for all. `params` uint8 [n, 32] are `Choice.packed`,
        `bans` int64 [n, width], and `uniforms` float64 [n] the numbers in (0, 1) to draw with.
        """
        rows = len(params)
        tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
        nothing = tokens if places is None else places
        table, begins = (logits, tokens) if counts is None else (counts.table, counts.begins)
        sizes = (self._vocab, int(places is not None), int(counts is not None), bans.shape[1])
        tensors = (logits, nothing, table, begins, params, bans, uniforms, tokens)
        self._kernel.launch((rows, 1, 1), _THREADS, *tensors, *sizes, shared=self._shared)
        return tokens
