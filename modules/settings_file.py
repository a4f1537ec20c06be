"""Saving in settings.yaml: what changes is changed, and the rest stays as it was written."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modules.errors import SettingsError, StorageError
from modules.paths import write_atomically
from modules.settings import Origins, Settings, converted, read_again
from modules.yaml_files import MAX_YAML_BYTES, parse_yaml, read_yaml

__all__ = ["edited", "save_settings", "saved_values"]

Plain = str | int | float | bool | list[str] | list[int]
"""What a setting is in the file."""


def saved_values(file: Path) -> dict[str, Any]:
    """What the file says, by the names of the fields. Raises SettingsError for a damaged one."""
    return _by_field(read_yaml(file)) if file.is_file() else {}


def save_settings(
    origins: Origins,
    changes: Mapping[str, Plain | None],
    others: Mapping[str, Plain | None] | None = None,
) -> Settings:
    """Write `changes` into the launch's settings.yaml, and return what the next launch has.

    None, and a value that is the default, take a setting out of the file. `others` are keys that
    are no settings of Lantern's own, but of its extensions (`name-key`), as they stand in the
    file. What the next launch would refuse is not written: raises SettingsError, and StorageError
    where the file cannot be.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(Settings)}
    wanted: dict[str, Plain | None] = {}
    for name, value in changes.items():
        if name not in defaults:
            raise SettingsError(f"There is no setting {name[:60]!r}.", "Reload the page.")
        read = None if value is None else converted(name, value)
        if isinstance(read, int) and re.fullmatch("-?[0-9]{1,18}", str(value).strip()):
            value = int(str(value))  # written without quotes; an amount of memory as it was typed
        wanted[name] = None if read is None or read == defaults[name] else value
    file = origins.file.resolve()  # a link stays one
    old = _text(file)
    new = edited(old, wanted | dict(others or {}))
    if len(new.encode()) > MAX_YAML_BYTES:
        raise SettingsError(f"{file.name} would be larger than 64 KB.", "Write less into it.")
    settings = _as_launched(origins, new)
    if new != old:
        _write(file, new)
    return settings


def edited(text: str, changes: Mapping[str, Plain | None]) -> str:
    """The file `text` with other values for some fields, and without those that are None.

    Comments, order and spelling of everything else are kept, where the file is written as one
    `name: value` a line. Raises SettingsError for a file that is damaged already.
    """
    before = parse_yaml(text.encode(), "settings.yaml")
    names = {_field(name) for name in changes}
    wanted = {key: value for key, value in before.items() if _field(key) not in names}
    wanted |= {name: value for name, value in changes.items() if value is not None}
    found = text
    for name, value in changes.items():
        found = _changed(found, name, value)
    with contextlib.suppress(SettingsError):
        after = parse_yaml(found.encode(), "settings.yaml")
        if _by_field(after) == _by_field(wanted):
            return found
    return _dump(wanted)  # written in a form that lines cannot be taken out of


def _changed(text: str, name: str, value: Plain | None) -> str:
    """`text` with the last line of `name` changed, or a new one; all of them are taken out first
    where there is no value."""
    places = _places(text, name)
    if value is not None and places:
        *_, (_, first, end, _) = places
        return text[:first] + _inline(value) + text[end:]
    for start, _, _, line_end in reversed(places):
        text = text[:start] + text[line_end:]
    if value is None:
        return text
    newline = "\r\n" if "\r\n" in text else "\n"
    gap = "" if not text or text.endswith("\n") else newline
    return f"{text}{gap}{name}: {_inline(value)}{newline}"


def _places(text: str, name: str) -> list[tuple[int, int, int, int]]:
    """Where `name` stands: the beginning of its line, of its value, their ends."""
    import yaml

    try:
        root = yaml.compose(text, yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return []
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        return []
    found = []
    for key, value in root.value:
        if _field(key.value) == _field(name):
            end = _end_of(value)
            line_end = text.find("\n", end) + 1 or len(text)
            start = text.rfind("\n", 0, key.start_mark.index) + 1
            found.append((start, value.start_mark.index, end, line_end))
    return found


def _end_of(node: Any) -> int:
    """Behind the last character of a value; a list without brackets ends with its last item."""
    if isinstance(node.value, list) and node.value and not node.flow_style:
        last = node.value[-1]
        return _end_of(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _inline(value: Plain) -> str:
    import yaml

    text = yaml.safe_dump(
        value, default_flow_style=True, allow_unicode=True, width=float("inf")
    ).removesuffix("\n")
    return str(text.removesuffix("\n..."))


def _dump(values: Mapping[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(dict(values), allow_unicode=True, sort_keys=False)) if values else ""


def _as_launched(origins: Origins, text: str) -> Settings:
    """What the launch would make of the file; by the code of a launch, so that all is checked."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / origins.file.name
        file.write_bytes(text.encode())
        return read_again(origins, file)[0]


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode() if file.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise StorageError(
            f"{file.name} cannot be read: {reason}.", "Make the file readable."
        ) from error


def _write(file: Path, text: str) -> None:
    try:
        mode = file.stat().st_mode & 0o777 if file.is_file() else 0o600  # keys may stand in it
        write_atomically(file, text)
        file.chmod(mode)
    except OSError as error:
        raise StorageError(
            f"{file.name} cannot be written: {error.strerror}.",
            f"Make {file.parent.name or file.parent} writable, or free some disk space.",
        ) from error


def _field(key: object) -> str:
    return str(key).replace("-", "_")


def _by_field(values: Mapping[Any, Any]) -> dict[str, Any]:
    return {_field(key): value for key, value in values.items()}
