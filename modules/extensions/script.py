"""`Script`: the `script.py` of an extension as a plugin, whatever signatures it was written for.

text-generation-webui let the arguments of its hooks grow over the years (`state`, `is_chat`),
and let one go (`seed`). What a function takes is found by inspection, as it does it there.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import pluggy

from modules.extensions.hooks import NAMES, PROJECT, Hooks

__all__ = ["Plugins", "Script", "adapted"]

_BY_NAME = frozenset({"is_chat", "is_final"})
"""Arguments that a script gets by name, wherever it puts them."""


class Script:
    """One imported extension. Each hook that it declares is a method of that name."""

    def __init__(self, name: str, module: types.ModuleType) -> None:
        self.name = name
        self.module = module
        self.hooks = tuple(hook for hook in NAMES if callable(getattr(module, hook, None)))
        for hook in self.hooks:
            setattr(self, hook, adapted(hook, getattr(module, hook)))

    @property
    def params(self) -> MutableMapping[str, Any]:
        """The `params` of the script itself; empty, and nobody's, where it has none."""
        params = getattr(self.module, "params", None)
        return params if isinstance(params, dict) else {}

    @property
    def display_name(self) -> str:
        """What the page calls it."""
        return str(self.params.get("display_name") or self.name)

    @property
    def is_tab(self) -> bool:
        """Whether its widgets want a tab of their own."""
        return bool(self.params.get("is_tab", False))

    def takes(self, hook: str, argument: str) -> bool:
        """Whether the function of `hook` has an argument of this name."""
        function = getattr(self.module, hook, None)
        return callable(function) and argument in _parameters(function)


class Plugins(pluggy.PluginManager):
    """The scripts that are on, in their order; whatever is named as a hook is one."""

    def __init__(self) -> None:
        super().__init__(PROJECT)
        self.add_hookspecs(Hooks)

    def parse_hookimpl_opts(self, plugin: object, name: str) -> Any:
        """The function of a script needs no decorator."""
        if isinstance(plugin, Script) and name in plugin.hooks:
            return {
                "wrapper": False, "hookwrapper": False, "optionalhook": False,
                "tryfirst": False, "trylast": False, "specname": None,
            }  # fmt: skip
        return None

    def declaring(self, hook: str) -> list[Script]:
        """The scripts with this hook, in their order."""
        return [impl.plugin for impl in getattr(self.hook, hook).get_hookimpls()]


def adapted(hook: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` under the arguments of the hook's specification."""
    spec = inspect.signature(getattr(Hooks, hook))
    names = list(spec.parameters)[1:]

    def run(*values: Any, **named: Any) -> Any:
        given = dict(zip(names, values, strict=False)) | named
        arguments, keywords = _fitted(hook, _parameters(function), given)
        return function(*arguments, **keywords)

    run.__signature__ = inspect.Signature(list(spec.parameters.values())[1:])  # type: ignore[attr-defined]
    run.__name__ = hook
    return run


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (ValueError, TypeError):  # it is written in C
        return {}


def _fitted(
    hook: str, takes: Mapping[str, inspect.Parameter], given: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Of what a hook is given, the part that a function takes: by place, and by name."""
    given = dict(given)
    kinds = {parameter.kind for parameter in takes.values()}
    keywords = {name: given.pop(name) for name in _BY_NAME & given.keys() & takes.keys()}
    if hook == "custom_generate_chat_prompt":
        extra = given.pop("kwargs")
        every = inspect.Parameter.VAR_KEYWORD in kinds
        keywords |= {name: value for name, value in extra.items() if every or name in takes}
    rest = inspect.Parameter.VAR_POSITIONAL in kinds
    if hook == "custom_generate_reply" and "seed" not in takes and not rest:
        del given["seed"]
    for name in _BY_NAME:
        given.pop(name, None)
    if rest:
        return list(given.values()), keywords
    places = [
        name
        for name, parameter in takes.items()
        if name not in keywords
        and parameter.kind
        in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    ]
    return list(given.values())[: len(places)], keywords
