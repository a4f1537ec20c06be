"""Runs one function of a tool's file in a process of its own, under limits of the system.

`python -P function_runner.py` reads one JSON object from stdin, with the `file` and the
`arguments`, and writes one to stdout, with a `result` or an `error`. It imports nothing of
Lantern. What the tool prints is thrown away.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

__all__ = ["main"]

_MEMORY = 2 * 1024**3
_CPU_S = 20
_WRITTEN = 64 * 1024**2
_MAX_CHARS = 20_000


def main() -> int:
    """Run the function. Returns the exit status."""
    request = json.load(sys.stdin.buffer)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the tool prints must not stand in the answer
    _limit()
    try:
        answer = {"result": _cut(_text(_execute(request["file"], request["arguments"])))}
    except BaseException as error:  # noqa: BLE001 - whatever a tool raises is its answer
        answer = {"error": _cut(_told(error, request["file"]))}
    answers.write(json.dumps(answer).encode("ascii"))
    answers.flush()
    os._exit(0)  # and no thread of the tool's holds this up


def _execute(file: str, arguments: dict[str, Any]) -> Any:
    spec = importlib.util.spec_from_file_location("lantern_tool", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules["lantern_tool"] = module
    spec.loader.exec_module(module)
    return module.execute(arguments)


def _text(result: Any) -> str:
    if isinstance(result, str):
        return result
    return json.dumps(result, ensure_ascii=False, default=str)


def _cut(text: str) -> str:
    if len(text) <= _MAX_CHARS:
        return text
    return f"{text[:_MAX_CHARS]}\n… (the first {_MAX_CHARS:,} of {len(text):,} characters)"


def _told(error: BaseException, file: str) -> str:
    """What was raised, and in which line of the tool's file."""
    kind = type(error).__name__
    text = f"{kind}: {error}" if str(error) else kind
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file]
    return f"{text} (line {lines[-1]} of {Path(file).name})" if lines else text


def _limit() -> None:
    """Bound what this process may take, where the system can; its parent bounds the time."""
    try:
        import resource
    except ImportError:  # Windows
        return
    os.nice(10)  # replies come first
    for what, most in (
        (resource.RLIMIT_AS, _MEMORY),
        (resource.RLIMIT_CPU, _CPU_S),
        (resource.RLIMIT_FSIZE, _WRITTEN),
        (resource.RLIMIT_CORE, 0),
    ):
        try:
            resource.setrlimit(what, (most, most))
        except (ValueError, OSError):  # macOS knows no limit of the address space
            continue


if __name__ == "__main__":
    sys.exit(main())
