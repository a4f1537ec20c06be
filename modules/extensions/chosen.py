"""`Chosen`: which extensions a launch wants on, and with which params."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modules.access import is_loopback
from modules.errors import InvalidInputError, SettingsError
from modules.settings import Origins, Settings

__all__ = ["Chosen", "chosen_of", "fitting", "is_plain"]

_MAX_VALUES = 10_000


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a launch says of extensions.

    `names` are to be on, in their order; `withheld` would be, were the page not open to others
    than this machine. `params` has what settings.yaml sets, by the extension and the key.
    """

    names: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()
    params: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def chosen_of(settings: Settings, origins: Origins | None = None) -> Chosen:
    """The choice of a launch. Raises SettingsError for a param that is no plain value.

    Where others reach the page, only what was named on the command line counts: whoever shares
    one should have that in view.
    """
    origins = origins or Origins()
    open_to_others = not is_loopback(settings.host) or settings.share or bool(settings.subpath)
    withheld = set(settings.extensions) - set(origins.extensions) if open_to_others else set()
    return Chosen(
        tuple(name for name in settings.extensions if name not in withheld),
        tuple(name for name in settings.extensions if name in withheld),
        _params(settings, origins),
    )


def _params(settings: Settings, origins: Origins) -> dict[str, dict[str, Any]]:
    """`<name>-<param>: value` by name and param; the longest name that there is has it."""
    folders = [one.name for one in settings.extension_dir.glob("*") if one.is_dir()]
    params: dict[str, dict[str, Any]] = {}
    for key, value in origins.extension_params.items():
        if not is_plain(value):
            raise SettingsError(f"{key} in {origins.file.name} is no plain value.", "Simplify it.")
        name = max((n for n in folders if key.startswith(n + "-")), key=len, default="")
        if name:
            params.setdefault(name, {})[key[len(name) + 1 :]] = value
    return params


def is_plain(value: Any) -> bool:
    """Whether a value means the same in another process, and in YAML, and is not endless."""
    waiting, seen = [value], 0
    while waiting:
        one = waiting.pop()
        seen += 1
        if seen > _MAX_VALUES:
            return False
        if isinstance(one, dict):
            if not all(isinstance(key, str) for key in one):
                return False
            waiting += one.values()
        elif isinstance(one, list | tuple):
            waiting += one
        elif not (one is None or isinstance(one, str | int | float | bool)):
            return False
    return True


def fitting(former: Any, value: Any, name: str) -> Any:
    """`value` for a param that was `former`. Raises InvalidInputError for another kind."""
    if isinstance(former, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not is_plain(value) or (former is not None and type(value) is not type(former)):
        raise InvalidInputError(
            f"{name} cannot be {str(value)[:60]!r}.",
            f"Give it a value of type {type(former).__name__}.",
            field=name,
        )
    return value
