"""Training configs in YAML: read, swept, written."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modules.errors import InvalidInputError, SettingsError
from modules.training.config import DatasetSource, TrainingConfig, training_knobs
from modules.wording import nearest
from modules.yaml_files import read_yaml

__all__ = ["as_yaml", "expand", "from_mapping", "read_configs"]

_MOST_SWEEP = 64


def read_configs(path: Path) -> list[TrainingConfig]:
    """The run of a YAML file, or the runs where a number is a list of numbers.

    Raises SettingsError for what is no such file, naming it and the key.
    """
    try:
        return [from_mapping(entries) for entries in expand(read_yaml(path))]
    except InvalidInputError as error:
        raise SettingsError(f"{path.name}: {error.message}", error.remedy) from error


def expand(entries: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A sweep: one mapping for each combination of the numbers and choices given as lists.

    Each gets the values that set it apart added to its name. Raises InvalidInputError for more
    than 64 runs.
    """
    swept = {
        name: entries[name]
        for name, knob in training_knobs().items()
        if knob.kind in ("number", "integer", "choice", "switch")
        and isinstance(entries.get(name), list)
    }
    if not swept:
        return [dict(entries)]
    runs = []
    for values in itertools.islice(itertools.product(*swept.values()), _MOST_SWEEP + 1):
        chosen = dict(zip(swept, values, strict=True))
        told = "-".join(f"{name}-{value}" for name, value in chosen.items())
        runs.append({**entries, **chosen, "name": f"{entries.get('name', '')}-{told}".strip("-")})
    if not 0 < len(runs) <= _MOST_SWEEP:
        raise InvalidInputError(
            f"The lists make no runs, or more than {_MOST_SWEEP}.", "Give fewer values.", "sweep"
        )
    return runs


def from_mapping(entries: Mapping[str, Any]) -> TrainingConfig:
    """The config that a mapping (of YAML or JSON) describes. Raises InvalidInputError."""
    known = [field.name for field in dataclasses.fields(TrainingConfig)]
    for name in entries:
        if name not in known:
            near = nearest(str(name), known)
            raise InvalidInputError(f"There is no setting {str(name)[:60]!r}.", near, str(name))
    given = dict(entries)
    for name in ("datasets", "eval_datasets"):
        if name in given:
            given[name] = _sources(name, given[name])
    return TrainingConfig(**given)


def _sources(name: str, values: Any) -> tuple[DatasetSource, ...]:
    if not isinstance(values, list | tuple):
        raise InvalidInputError(f"{name} is no list.", "List files or folders.", name)
    sources = []
    for value in values:
        entry = {"path": value} if isinstance(value, str) else value
        fields = {field.name for field in dataclasses.fields(DatasetSource)}
        columns = entry.get("columns", {}) if isinstance(entry, dict) else {}
        if (
            not isinstance(entry, dict)
            or not entry.keys() <= fields
            or not isinstance(entry.get("path"), str)
            or not isinstance(entry.get("format", ""), str)
            or not isinstance(columns, dict)
            or not all(isinstance(text, str) for pair in columns.items() for text in pair)
        ):
            raise InvalidInputError(
                f"An entry of {name} is not understood.",
                "Give path, and if need be weight, columns and format.",
                name,
            )
        sources.append(DatasetSource(**entry))
    return tuple(sources)


def as_yaml(config: TrainingConfig) -> str:
    """What `read_configs` reads again: every setting that is not at its default."""
    import yaml

    standard = TrainingConfig()
    changed: dict[str, Any] = {}
    for item in dataclasses.fields(TrainingConfig):
        value = getattr(config, item.name)
        if value == getattr(standard, item.name):
            continue
        if item.name in ("datasets", "eval_datasets"):
            value = [_shortened(source) for source in value]
        changed[item.name] = list(value) if isinstance(value, tuple) else value
    ordered = sorted(changed.items(), key=lambda entry: entry[0] not in ("name", "base"))
    text: str = yaml.safe_dump(dict(ordered), allow_unicode=True, sort_keys=False)
    return text


def _shortened(source: DatasetSource) -> dict[str, Any]:
    standard = DatasetSource(source.path)
    entries: dict[str, Any] = {f.name: getattr(source, f.name) for f in dataclasses.fields(source)}
    entries["columns"] = dict(source.columns)
    return {n: v for n, v in entries.items() if n == "path" or v != getattr(standard, n)}
