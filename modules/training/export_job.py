"""An export as the page starts it: a process of its own, followed by what it prints."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass

from modules.errors import LanternError
from modules.paths import safe_child
from modules.settings import ROOT
from modules.training.launch import RunFolders

__all__ = ["ExportWish", "run_export"]

_PROGRESS = re.compile(r"\s*(\d{1,3}) % (.+)")


@dataclass(frozen=True, slots=True)
class ExportWish:
    """Of which run (or LoRA) `subject`, after which step (None: as it ended), to which name."""

    subject: str
    to: str
    checkpoint: int | None = None


async def run_export(
    wish: ExportWish, folders: RunFolders, report: Callable[[str, float], None]
) -> str:
    """Merge a LoRA into its base as a new folder in models/; returns what came of it.

    `report` gets a stage and a fraction. Ends the process where it is cancelled, which leaves
    nothing behind. Raises InvalidNameError, and LanternError with what the process said last.
    """
    for name in (wish.to, wish.subject):  # the command takes paths too, and the page none
        safe_child(folders.models, name)
    step = [] if wish.checkpoint is None else ["--checkpoint", str(wish.checkpoint)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "modules.training.export", *step, "--to", wish.to),
        *folders.arguments(),
        *("--", wish.subject),
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    told: list[str] = []
    try:
        async for raw in process.stdout:
            line = raw.decode(errors="replace").rstrip()
            if match := _PROGRESS.fullmatch(line):
                report(match[2], int(match[1]) / 100)
            elif line:
                told.append(line)
        status = await process.wait()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        raise
    if status:
        raise LanternError(told[-1] if told else "The export ended without a word.")
    return " ".join(told)
