"""The methods of decoding: which one parameters ask for, and what cannot be had together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

from modules.engine.params import SamplingParams, knobs
from modules.errors import EngineError, InvalidInputError

__all__ = ["MOST_CANDIDATES", "method_of", "require_possible", "require_supported"]

MOST_CANDIDATES = 20
"""Of contrastive search; each is computed for each token."""

_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "guidance_scale": "Guidance",
        "penalty_alpha": "Contrastive search",
        "num_beams": "Beam search",
        "prompt_lookup_num_tokens": "Prompt lookup",
    }
)
"""The fields that turn a method on."""

_WITHOUT_CHANCE = ("penalty_alpha", "num_beams")


def method_of(params: SamplingParams) -> str:
    """The field that turns on the method of decoding; "" for plain sampling."""
    return next(iter(_methods(params)), "")


def require_possible(params: SamplingParams) -> None:
    """Raise InvalidInputError, naming a field, for methods that cannot work together."""
    chosen = _methods(params)
    if len(chosen) > 1:
        first, second = chosen[:2]
        raise InvalidInputError(
            f"{_NAMES[first]} and {_NAMES[second].lower()} cannot work together.",
            f"Set {_neutral(first)}, or {_neutral(second)}.",
            field=second,
        )
    for name in chosen:
        if name in _WITHOUT_CHANCE and not params.greedy:
            raise InvalidInputError(
                f"{_NAMES[name]} leaves nothing to chance.",
                f"Turn {_label('do_sample')} off, or set {_neutral(name)}.",
                field=name,
            )
    if params.penalty_alpha and not 2 <= params.top_k <= MOST_CANDIDATES:
        raise InvalidInputError(
            f"Contrastive search cannot choose among {params.top_k} tokens.",
            f"Set {_label('top_k')} to 2 to {MOST_CANDIDATES}, or {_neutral('penalty_alpha')}.",
            field="top_k",
        )


def require_supported(params: SamplingParams, unsupported: Collection[str]) -> None:
    """Raise EngineError for a method that the loaded model cannot serve."""
    for name in _methods(params):
        if name in unsupported:
            raise EngineError(
                f"{_NAMES[name]} does not work with this model, whose cache cannot be cut back.",
                f"Set {_neutral(name)}.",
            )


def _label(name: str) -> str:
    """A field as the page calls it, and as the API does."""
    return f"{knobs()[name].label} ({name})"


def _neutral(name: str) -> str:
    return f"{_label(name)} to {knobs()[name].neutral:g}"


def _methods(params: SamplingParams) -> list[str]:
    return [name for name in _NAMES if getattr(params, name) != knobs()[name].neutral]
