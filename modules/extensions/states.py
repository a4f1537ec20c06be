"""The `state` of text-generation-webui's hooks: the values of a page, by their names there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from modules.chat.hooks import Turn
from modules.engine.params import SamplingParams, knobs
from modules.errors import InvalidInputError
from modules.extensions.histories import pairs_of

__all__ = ["params_from", "plain_state", "state_of", "turn_from"]

_MODES = ("instruct", "chat-instruct", "chat")
_TEXTS = ("name1", "name2", "context")


def plain_state(turn: Turn) -> dict[str, Any]:
    """The state without the history, which is as long as the chat."""
    params = dataclasses.asdict(turn.params)
    listed = {k: list(v) if isinstance(v, tuple) else v for k, v in params.items()}
    return listed | {
        "custom_stopping_strings": list(turn.params.stop),
        "name1": turn.cast.user,
        "name2": turn.cast.name,
        "context": turn.cast.context,
        "mode": turn.cast.mode,
        "character_menu": turn.cast.character,
        "stream": True,
    }


def state_of(turn: Turn) -> dict[str, Any]:
    """The state that a hook gets."""
    earlier = turn.messages if turn.continues or not turn.is_chat else _before_last(turn)
    return plain_state(turn) | {"history": pairs_of(earlier)}


def turn_from(state: Mapping[str, Any], turn: Turn) -> Turn:
    """`turn` with what a hook changed in its state.

    Raises ValueError or InvalidInputError for a value that may not be. What has no meaning here
    is passed over.
    """
    before = plain_state(turn)
    changed = {key: value for key, value in state.items() if before.get(key, value) != value}
    names = {}
    for key, name in (("name1", "user"), ("name2", "name"), ("context", "context")):
        if key in changed:
            if not isinstance(changed[key], str):
                raise ValueError(f"{key} is a text")
            names[name] = changed[key]
    if "mode" in changed:
        if changed["mode"] not in _MODES:
            raise ValueError(f"mode is one of {', '.join(_MODES)}")
        names["mode"] = changed["mode"]
    if "custom_stopping_strings" in changed:
        changed["stop"] = changed["custom_stopping_strings"]
    cast = dataclasses.replace(turn.cast, **names) if names else turn.cast
    return dataclasses.replace(turn, cast=cast, params=params_from(changed, turn.params))


def params_from(state: Mapping[str, Any], params: SamplingParams) -> SamplingParams:
    """`params` with what `state` says otherwise. Raises InvalidInputError for a wrong value."""
    changed: dict[str, Any] = {}
    for name in knobs():
        if name in state:
            value = tuple(v) if isinstance(v := state[name], list) else v
            if value != getattr(params, name):
                changed[name] = value
    try:
        return params.replace(**changed) if changed else params
    except TypeError as error:
        raise InvalidInputError(f"{', '.join(changed)}: {error}.", "Give a plain value.") from error


def _before_last(turn: Turn) -> tuple[Any, ...]:
    """What is before the message that is to be answered."""
    last = turn.messages[-1] if turn.messages else None
    return turn.messages[:-1] if last is not None and last.role == "user" else turn.messages
