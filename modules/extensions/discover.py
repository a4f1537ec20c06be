"""What lies in the extensions folder, read without running any of it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules.errors import ExtensionError, InvalidNameError
from modules.extensions.hooks import IN_WORKER, NAMES
from modules.paths import safe_child

__all__ = ["Found", "discover", "read_script"]

_MAX_SCRIPT_BYTES = 2_000_000
_MAX_EXTENSIONS = 500


@dataclass(frozen=True, slots=True)
class Found:
    """One extension as its file says it is. `params` are those that are written out.

    `error` says why the file cannot be an extension. `path` is that of the script.
    """

    name: str
    path: Path
    display_name: str
    about: str = ""
    hooks: tuple[str, ...] = ()
    params: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    stamp: tuple[int, int] = (0, 0)
    """Time and size of the file, to tell whether it was edited."""

    @property
    def only_in_worker(self) -> bool:
        """Whether the web process has nothing to import it for."""
        return bool(self.hooks) and set(self.hooks) <= IN_WORKER

    @property
    def tensor_hooks(self) -> tuple[str, ...]:
        """Its hooks that run in the engine worker."""
        return tuple(name for name in self.hooks if name in IN_WORKER)


def discover(folder: Path, known: Mapping[str, Found] | None = None) -> dict[str, Found]:
    """Every extension in `folder` by name, sorted; none where there is no folder.

    What is `known` is read again where its file was edited.
    """
    if not folder.is_dir():
        return {}
    try:
        names = sorted(one.name for one in folder.iterdir() if (one / "script.py").is_file())
    except OSError:
        return {}
    found = {}
    for name in names[:_MAX_EXTENSIONS]:
        try:
            path = safe_child(folder, name) / "script.py"
            before = (known or {}).get(name)
            same = before is not None and before.stamp == _stamp(path) != (0, 0)
            found[name] = before if same and before else read_script(name, path)
        except InvalidNameError:
            continue
    return found


def read_script(name: str, path: Path) -> Found:
    """What the script at `path` declares."""
    stamp = _stamp(path)
    try:
        if "." in name:
            raise ExtensionError("The folder's name has a dot in it.", "Rename the folder.")
        tree = _parsed(path)
    except ExtensionError as error:
        return Found(name, path, name, error=error.message, stamp=stamp)
    params = _params(tree)
    title = params.get("display_name")
    about = (ast.get_docstring(tree) or "").strip().partition("\n")[0]
    declared = set(_names(tree))
    return Found(
        name,
        path,
        title if isinstance(title, str) and title else name,
        about,
        tuple(hook for hook in NAMES if hook in declared),
        params,
        stamp=stamp,
    )


def _stamp(path: Path) -> tuple[int, int]:
    try:
        about = path.stat()
    except OSError:
        return 0, 0
    return about.st_mtime_ns, about.st_size


def _parsed(path: Path) -> ast.Module:
    """Raises ExtensionError."""
    try:
        if path.stat().st_size > _MAX_SCRIPT_BYTES:
            raise ExtensionError("script.py is larger than 2 MB.", "Move data into other files.")
        return ast.parse(path.read_bytes(), path.name)
    except SyntaxError as error:
        line = f" in line {error.lineno}" if error.lineno else ""
        raise ExtensionError(
            f"script.py is no Python{line}: {error.msg}.", "Correct it, and switch it on again."
        ) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise ExtensionError("script.py is no Python.", "Correct it.") from error
    except OSError as error:
        raise ExtensionError(
            f"script.py cannot be read: {error.strerror}.", "Make it readable."
        ) from error


def _names(tree: ast.Module) -> Iterator[str]:
    """What the script defines, assigns or imports at its top level."""
    for node in _top(tree.body):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.Assign(targets=targets):
                yield from (one.id for one in targets if isinstance(one, ast.Name))
            case ast.ImportFrom(names=names):
                yield from (one.asname or one.name for one in names)


def _top(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, with those under `if` and `try`."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from _top(node.body)
            yield from _top(node.orelse)


def _params(tree: ast.Module) -> dict[str, Any]:
    """The values of `params` that are written out."""
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and target.id == "params" and isinstance(value, ast.Dict):
            return dict(_literals(value))
    return {}


def _literals(table: ast.Dict) -> Iterator[tuple[str, Any]]:
    for key, value in zip(table.keys, table.values, strict=True):
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            try:
                yield key.value, ast.literal_eval(value)
            except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                continue
