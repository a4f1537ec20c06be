"""YAML files of names and values, as users write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modules.errors import SettingsError

__all__ = ["MAX_YAML_BYTES", "parse_yaml", "read_yaml"]

MAX_YAML_BYTES = 64 * 1024


def read_yaml(path: Path) -> dict[str, Any]:
    """The names and values in a file of at most 64 KB. Raises SettingsError for a damaged one."""
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise SettingsError(
                f"{path.name} is larger than 64 KB.", "Remove what is not a setting."
            )
        return parse_yaml(path.read_bytes(), path.name)
    except OSError as error:
        raise SettingsError(
            f"{path.name} cannot be read: {error.strerror}.", "Make the file readable."
        ) from error


def parse_yaml(content: bytes, name: str) -> dict[str, Any]:
    """The names and values in `content`, the file `name`. Raises SettingsError."""
    # Imported here, because most launches have no settings.yaml to read.
    import yaml

    class Loader(yaml.SafeLoader):
        """Without merge keys (`<<`): nested ones double with each level."""

        def flatten_mapping(self, node: yaml.MappingNode) -> None:
            pass

    try:
        data = yaml.load(content.decode(), Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: a date or a number that only looks like one. RecursionError: deep nesting.
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark else ""
        raise SettingsError(
            f"{name} is not valid YAML{place}.", "Write one `name: value` a line."
        ) from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise SettingsError(f"{name} is not a list of settings.", "Write `name: value` lines.")
    return data
