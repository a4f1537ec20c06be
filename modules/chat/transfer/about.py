"""What a file says about how a reply was made, checked, because the page shows it."""

from __future__ import annotations

import json
from typing import Any, get_args

from modules.chat.about import params_of
from modules.chat.database import storable
from modules.chat.store import Mode
from modules.chat.transfer.place import Place, shown
from modules.errors import InvalidInputError

__all__ = ["checked_about"]

_MOST_CHARS = 2_000_000
_TEXTS = ("model", "template", "finish_reason", "name", "character", "prompt", "lantern", "system")
_COUNTS = (
    "seed", "context", "dropped", "prompt_tokens", "completion_tokens", "cached_tokens",
    "beginning", "beginning_calls",
)  # fmt: skip
_FIGURES = ("first_token_s", "tokens_per_s")
_TOGETHER = ("prompt_tokens", "completion_tokens", "context", *_FIGURES)
"""The page shows all of these or none."""
_MOST = 2.0**63


def checked_about(value: Any, place: Place) -> dict[str, Any]:
    """`value` as `StoredMessage.about` has it. Raises InvalidInputError."""
    at = place.at("about")
    value = at.mapping({} if value is None else value)
    try:
        text = storable(json.dumps(value, ensure_ascii=False, allow_nan=False))
    except (ValueError, RecursionError) as error:
        raise at.wrong("it has NaN or an endless number, or is too deep") from error
    if len(text) > _MOST_CHARS:
        raise at.wrong(f"it has {len(text):,} characters, and {_MOST_CHARS:,} are allowed")
    about: dict[str, Any] = json.loads(text)
    for key in about.keys() & set(_TEXTS):
        at.text(about, key)
    for key in about.keys() & {*_COUNTS, *_FIGURES}:
        at.number(about, key, -1, _MOST)
        if key in _COUNTS and not isinstance(about[key], int):
            raise at.wrong(f"{key!r} is no whole number")
    missing = [key for key in _TOGETHER if key not in about]
    if missing and "completion_tokens" in about:
        raise at.wrong(f"{missing[0]!r} is missing")
    if about.get("mode", "instruct") not in get_args(Mode):
        raise at.wrong(f"{shown(about['mode'])} is no mode")
    at.at("checkpoint").mapping(about.get("checkpoint", {}))
    if at.at("params").mapping(about.get("params", {})):
        try:
            params_of(about)
        except InvalidInputError as error:
            raise at.at("params").wrong(error.message.rstrip(".")) from error
    for row, pair in at.rows(about.get("adapters", []), "adapter"):
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
            raise row.wrong("this is no name with a weight")
        row.number({"weight": pair[1]}, "weight", -100, 100)
    return about
