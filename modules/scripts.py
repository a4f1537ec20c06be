"""Running the scripts of extensions: imported anew, and what to say when they fail.

The web process and the engine worker both do it, so this knows nothing of either.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import traceback
import types
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol

from modules.errors import ExtensionError

__all__ = [
    "HOST",
    "HookError",
    "Interrupted",
    "ScriptHost",
    "clause_of",
    "import_script",
    "kind_of",
    "place_of",
]

_PACKAGE = "extensions"
_MAX_MESSAGE_CHARS = 200


class ScriptHost(Protocol):
    """What scripts may ask in the process that runs them, see modules/extensions/webui.py."""

    @property
    def model_name(self) -> str:
        """The loaded model's name; None in letters where there is none."""
        ...

    def encode(self, text: str, special_tokens: bool) -> Any:
        """The tokens of a text, [1, n]: a tensor in the engine worker, a list elsewhere."""
        ...

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        """The text of tokens."""
        ...


HOST: ContextVar[ScriptHost | None] = ContextVar("lantern_script_host", default=None)
"""Set in each thread that runs a hook."""


class HookError(Exception):
    """A hook raised, hung, or gave what it may not; the text is one clause about it."""


class Interrupted(BaseException):
    """Raised inside a hook that took too long. No Exception, so that few scripts swallow it."""


class _Loader(importlib.machinery.SourceFileLoader):
    """Reads the script anew each time: a cached one may be of an earlier edit."""

    def get_code(self, fullname: str) -> types.CodeType:
        """The script as it is now."""
        return self.source_to_code(self.get_data(self.path), self.path)


def import_script(name: str, path: Path) -> types.ModuleType:
    """Run the script at `path`, as the module `extensions.NAME.script`.

    What it imported of its own folder before is imported anew. Raises whatever the script does.
    """
    package = f"{_PACKAGE}.{name}"
    for known in [m for m in sys.modules if m == package or m.startswith(package + ".")]:
        del sys.modules[known]
    for parent, folder in ((_PACKAGE, path.parent.parent), (package, path.parent)):
        made = sys.modules.setdefault(parent, types.ModuleType(parent))
        made.__path__ = [str(folder)]
    spec = importlib.util.spec_from_file_location(
        f"{package}.script", path, loader=_Loader(f"{package}.script", str(path))
    )
    if spec is None or spec.loader is None:
        raise ExtensionError(f"{path} is no script.", "Look whether it is a file.")
    module = importlib.util.module_from_spec(spec)
    module.__dict__["__extension__"] = name  # by which a traceback is read, see calls.py
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(spec.name, None)
        raise
    return module


def clause_of(error: BaseException) -> str:
    """What an exception says, with the line of the script."""
    if isinstance(error, HookError):
        return str(error)
    place = place_of(error.__traceback__)
    if isinstance(error, SyntaxError) and error.filename:
        place = f" (line {error.lineno} of {Path(error.filename).name})"
    said = "tried to end the program" if isinstance(error, SystemExit) else _said(error)
    return f"{said}{place}"


def _said(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    text = " ".join(text.split())[:_MAX_MESSAGE_CHARS]
    name = type(error).__name__
    return f"raised {name}: {text}" if text else f"raised {name}"


def kind_of(value: object) -> str:
    """What something is, for the end of a sentence."""
    return "nothing" if value is None else f"a value of type {type(value).__name__}"


def place_of(where: Any) -> str:
    """` (line 12 of script.py)` for the innermost line of a script in a traceback or a frame."""
    walked = traceback.walk_stack(where) if hasattr(where, "f_back") else traceback.walk_tb(where)
    frames = [(frame, line) for frame, line in walked if "__extension__" in frame.f_globals]
    if not frames:
        return ""
    frame, line = frames[0] if hasattr(where, "f_back") else frames[-1]
    return f" (line {line} of {Path(frame.f_code.co_filename).name})"
