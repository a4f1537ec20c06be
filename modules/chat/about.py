"""What a reply was made of: written down with it, compared with what is loaded, used again."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modules.chat.prompt import ChatPrompt
from modules.chat.store import Chat, StoredMessage
from modules.chat.tools.call import ReplyCall
from modules.engine.client import EngineState
from modules.engine.params import SamplingParams, knobs
from modules.engine.protocol import ModelInfo
from modules.errors import InvalidInputError

__all__ = [
    "Comparison",
    "about_model",
    "about_prompt",
    "about_request",
    "beginning_of",
    "calls_at_beginning",
    "compare",
    "differences",
    "is_same_prompt",
    "params_of",
    "replayed_chat",
]

_PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
_MODEL_FACTS = ("path", "architecture", "parameters", "dtype", "quantization", "device")
_BEFORE, _AFTER = 40, 80
"""Characters that a comparison shows before the first difference, and from there on."""


# -- written down --------------------------------------------------------------------------


def about_request(
    chat: Chat, params: SamplingParams, beginning: str, calls: int = 0
) -> dict[str, Any]:
    """What is known before a model is asked. `beginning`, with `calls`, is not its own."""
    about: dict[str, Any] = {
        "lantern": _version(),
        "params": dataclasses.asdict(params),
        "system": chat.system,
        "mode": chat.mode,
        "character": chat.character,
    }
    if calls:
        about["beginning_calls"] = calls
    return about | ({"beginning": len(beginning)} if beginning else {})


def about_model(info: ModelInfo) -> dict[str, Any]:
    """Which model it is, as far as the engine knows."""
    return {
        "model": info.name,
        "checkpoint": {name: getattr(info, name) for name in _MODEL_FACTS},
    }


def about_prompt(prompt: ChatPrompt) -> dict[str, Any]:
    """How the prompt was made; of its text, a mark by which it is recognised."""
    return {
        "dropped": prompt.dropped,
        "context": prompt.context,
        "template": prompt.template,
        "prompt": _mark(prompt.text),
    }


@functools.cache
def _version() -> str:
    return str(tomllib.loads(_PYPROJECT.read_text("utf-8"))["project"]["version"])


def _mark(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()


# -- used again ----------------------------------------------------------------------------


def params_of(about: dict[str, Any]) -> SamplingParams:
    """The parameters of a reply, with the seed that it was drawn by.

    What this Lantern has no name for is left out, see `differences`. Raises
    InvalidInputError for a text that no model wrote, and for a value out of bounds.
    """
    if not about.get("params"):
        raise InvalidInputError(
            "No model wrote this text, or nothing is known about how.", "Regenerate it instead."
        )
    known = {name: value for name, value in about["params"].items() if name in knobs()}
    if "seed" in about:
        known["seed"] = about["seed"]
    return SamplingParams.neutral(**known)


def beginning_of(message: StoredMessage) -> str:
    """What stood in a reply before the model went on with it."""
    return message.content[: message.about.get("beginning", 0)]


def calls_at_beginning(message: StoredMessage) -> tuple[ReplyCall, ...]:
    """The calls that were made in what `beginning_of` has."""
    return message.calls[: message.about.get("beginning_calls", 0)]


def replayed_chat(chat: Chat, about: dict[str, Any], state: EngineState) -> Chat:
    """The chat as it was for a reply, with its tools, and those of its LoRAs that are applied now.

    Its calls must be asked about again.
    """
    tools = about.get("tools")
    applied = {adapter.info.name for adapter in state.adapters}
    return replace(
        chat,
        system=about.get("system", chat.system),
        mode=about.get("mode", chat.mode),
        character=about.get("character", chat.character),
        adapters=tuple((n, w) for n, w in about.get("adapters", ()) if n in applied),
        tools=tuple(map(str, tools)) if isinstance(tools, list) else (),
        always={},
    )


# -- compared ------------------------------------------------------------------------------


def differences(about: dict[str, Any], state: EngineState) -> list[str]:
    """What is other now than when the reply was written, a sentence each."""
    found = []
    info = state.info if state.phase == "ready" else None
    name = about.get("model", "an unknown model")
    if info is None:
        found.append(f"It was written by {name}; no model is loaded now.")
    elif info.name != name:
        found.append(f"It was written by {name}; {info.name} is loaded now.")
    else:
        then, now = about.get("checkpoint", {}), about_model(info)["checkpoint"]
        other = [f"{k} {v}, now {now[k]}" for k, v in then.items() if now.get(k, v) != v]
        if other:
            found.append(f"{name} is loaded differently: {'; '.join(other)}.")
    applied = {adapter.info.name for adapter in state.adapters}
    missing = [name for name, _ in about.get("adapters", ()) if name not in applied]
    if missing and info is not None:
        found.append(f"Not applied now, and left out by a replay: {', '.join(missing)}.")
    unknown = [name for name in about.get("params", {}) if name not in knobs()]
    if unknown:
        found.append(f"This Lantern does not know: {', '.join(unknown)}.")
    if about.get("params") and params_of(about).seed < 0:
        found.append("The seed is not known, because the reply did not end by itself.")
    return found


def is_same_prompt(about: dict[str, Any], prompt: ChatPrompt) -> bool | None:
    """Whether `prompt` is what the reply was an answer to; None where that is not known."""
    return _mark(prompt.text) == about["prompt"] if "prompt" in about else None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A replay beside its original. `at` is the first character that differs, from 0.

    `before` is what both have before it, `original` and `replay` what they have from there on.
    A reply that was cut or stopped is compared as far as it goes.
    """

    identical: bool
    at: int = 0
    before: str = ""
    original: str = ""
    replay: str = ""


def compare(original: StoredMessage, replay: StoredMessage) -> Comparison:
    """Where two replies part."""
    then, now = original.content, replay.content
    shorter = min(len(then), len(now))
    at = next((i for i in range(shorter) if then[i] != now[i]), shorter)
    ended = at == len(now) or original.state != "complete"
    if at == len(then) and ended:
        return Comparison(True)
    before, after = slice(max(0, at - _BEFORE), at), slice(at, at + _AFTER)
    return Comparison(False, at, then[before], then[after], now[after])
