"""`Functions`: tools that are single Python files, each with a `tool` and an `execute`.

A file is read here and never run: what it says of itself is a plain dict. Its function runs in
a process of its own (`function_runner`), which ends with it.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.chat.tool_prompt import Tool
from modules.chat.tools.toolbox import Answer, described, mark_of
from modules.errors import InvalidInputError

__all__ = ["Function", "Functions", "read_function"]

_RUNNER = Path(__file__).with_name("function_runner.py")
_SECONDS = 30.0
_END_S = 3.0
_MAX_OUTPUT = 512 * 1024
_MAX_FILE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Function:
    """A tool in a file. `mark` changes when the file does."""

    tool: Tool
    path: Path
    mark: str


class Functions:
    """The tools in some folders; a name in an earlier folder hides it in the later ones."""

    def __init__(self, folders: Sequence[Path], seconds: float = _SECONDS) -> None:
        self._folders = folders
        self._seconds = seconds
        self._found: dict[str, Function] = {}
        self._known: dict[Path, tuple[tuple[int, int], Function | str]] = {}
        self.problems: tuple[str, ...] = ()

    def read(self) -> dict[str, Function]:
        """Look into the folders again; `problems` say which files are no tools, and why."""
        found: dict[str, Function] = {}
        problems: list[str] = []
        for folder in self._folders:
            own: dict[str, Function] = {}
            for path in sorted(folder.glob("[!_.]*.py")) if folder.is_dir() else []:
                function = self._read(path)
                if isinstance(function, str):
                    problems.append(f"{path.name}: {function}")
                    continue
                if function.tool.name in own:
                    problems.append(f"{path.name}: another file has the name {function.tool.name}.")
                own.setdefault(function.tool.name, function)
            found = own | found
        self._found, self.problems = found, tuple(problems)
        return dict(sorted(found.items()))

    def find(self, name: str) -> Function | None:
        """The tool of this name, as it was read last."""
        return self._found.get(name)

    def _read(self, path: Path) -> Function | str:
        """The tool in a file, or why there is none; a file that did not change is read once."""
        try:
            facts = path.stat()
        except OSError as error:
            return f"It cannot be read: {error.strerror}."
        stamp = (facts.st_mtime_ns, facts.st_size)
        if path not in self._known or self._known[path][0] != stamp:
            try:
                self._known[path] = (stamp, read_function(path))
            except InvalidInputError as error:
                self._known[path] = (stamp, str(error))
        return self._known[path][1]

    async def call(self, function: Function, arguments: dict[str, Any]) -> Answer:
        """Run a function with arguments that fit its schema."""
        request = json.dumps({"file": str(function.path.resolve()), "arguments": arguments})
        with tempfile.TemporaryDirectory(
            prefix="lantern-tool-", ignore_cleanup_errors=True
        ) as folder:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", str(_RUNNER),
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
            try:
                output = await asyncio.wait_for(_exchange(process, request), self._seconds)
            except TimeoutError:
                return Answer(f"It did not end within {self._seconds:g} seconds.", failed=True)
            finally:
                await _end(process)
        return _answer(output)


async def _exchange(process: asyncio.subprocess.Process, request: str) -> bytes:
    """Give the child its request; what it answers, as far as that is bounded."""
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(request.encode())
        await process.stdin.drain()
    process.stdin.close()
    output = b""
    while len(output) <= _MAX_OUTPUT and (piece := await process.stdout.read(65_536)):
        output += piece
    return output


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the child, and what it started in its turn."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        elif process.returncode is None:
            process.kill()
    with contextlib.suppress(TimeoutError):  # somebody else may hold its pipe open
        async with asyncio.timeout(_END_S):
            while process.stdout is not None and await process.stdout.read(65_536):
                pass
            await process.wait()


def _answer(output: bytes) -> Answer:
    try:
        answer = json.loads(output) if len(output) <= _MAX_OUTPUT else None
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        why = "It was ended: it crashed, or took more memory or time than a tool may."
        return Answer(why, failed=True)
    if "error" in answer:
        return Answer(str(answer["error"]), failed=True)
    return Answer(str(answer.get("result", "")))


# -- what a file says of itself ------------------------------------------------------------


def read_function(path: Path) -> Function:
    """The tool in a file, which is not run. Raises InvalidInputError, saying what is wrong."""
    try:
        code = path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"It cannot be read: {error.strerror}.", "Check it.") from error
    if len(code) > _MAX_FILE_BYTES:
        raise InvalidInputError(f"It has {len(code):,} bytes.", "Put less into one file.")
    try:
        tree = ast.parse(code)
    except SyntaxError as error:
        where = f" in line {error.lineno}" if error.lineno else ""
        raise InvalidInputError(f"{error.msg}{where}.", "Correct it.") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise InvalidInputError("It is no Python that can be read.", "Correct it.") from error
    if not any(isinstance(n, ast.FunctionDef) and n.name == "execute" for n in tree.body):
        raise InvalidInputError("It has no execute(arguments).", "Write that function.")
    function = _written(tree).get("function")
    if not isinstance(function, dict):
        raise InvalidInputError('Its tool has no "function".', "Write it as OpenAI does.")
    tool = described(function.get("name"), function.get("description"), function.get("parameters"))
    return Function(tool, path, mark_of(tool, code))


def _written(tree: ast.Module) -> dict[Any, Any]:
    """The plain dict that `tool` is in a file."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else (
            [node.target] if isinstance(node, ast.AnnAssign) else []
        )  # fmt: skip
        named = any(isinstance(one, ast.Name) and one.id == "tool" for one in targets)
        if not named or not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        try:
            value = ast.literal_eval(node.value)
        except (ValueError, TypeError, RecursionError, MemoryError):
            value = None
        if not isinstance(value, dict):
            raise InvalidInputError(
                "Its tool is no plain dict.", "Write it out, without names and calls in it."
            )
        return value
    raise InvalidInputError("It has no tool = {…}.", "Describe the function there.")
