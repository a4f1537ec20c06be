"""Progress in a terminal, or in whatever stands for one."""

from __future__ import annotations

import shutil
from typing import TextIO

__all__ = ["ProgressLine"]


class ProgressLine:
    """One line that is rewritten on a terminal, and one line a stage elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._shown = ""

    def show(self, stage: str, fraction: float, details: str = "") -> None:
        """Say where it is; `details` change all the time, and are for a terminal alone."""
        stage = stage.partition(" (")[0]
        if self._terminal:
            text = f"{fraction:4.0%} {stage}" + (f": {details}" if details else "")
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(f"\r{text[:width]:<{width}}")
        elif stage != self._shown:
            self._stream.write(f"{fraction:4.0%} {stage}\n")
        self._stream.flush()
        self._shown = stage

    def end(self) -> None:
        """Leave the line as it stands."""
        if self._terminal and self._shown:
            self._stream.write("\n")
        self._shown = ""
