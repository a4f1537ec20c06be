"""From the fields of a request to `SamplingParams`.

OpenAI's names that mean the same here (`temperature`, `top_p`, `seed`, `stop`) are names
of `SamplingParams` already, and all of those are accepted: a new sampler needs nothing
here, unless OpenAI writes it in another form. An option that would change the result and
is not there is refused, never ignored.
"""

from __future__ import annotations

from pydantic import BaseModel

from modules.api.errors import ApiError
from modules.api.requests import Body
from modules.api.structure import STRUCTURE_OPTIONS, structure_params
from modules.engine.params import SamplingParams, knobs

__all__ = ["reply_limit", "sampling_params"]

_WITHOUT_EFFECT = frozenset(
    {
        "metadata",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
_ONLY_NEUTRAL: dict[str, tuple[object, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "prediction": (),
    "reasoning_effort": (),
    "suffix": ("",),
    "verbosity": (),
    "web_search_options": (),
}
"""OpenAI's options that are not there, with the values at which that makes no difference."""


def sampling_params(body: BaseModel) -> SamplingParams:
    """The parameters of a request, but for `max_new_tokens`, which needs the prompt.

    Raises ApiError for options unknown or not supported, InvalidInputError for values.
    """
    names = knobs()
    options = body.model_extra or {}
    changes = structure_params(options)
    for name, value in options.items():
        if value is None or name in STRUCTURE_OPTIONS:
            continue
        if name in names:
            changes[name] = _as_lines(value) if name == "logit_bias" else value
        elif name in _ONLY_NEUTRAL:
            _check_neutral(name, value)
        elif name not in _WITHOUT_EFFECT:
            raise ApiError(
                f"Lantern does not know the option {name[:60]!r}.",
                param=name[:60],
                code="unknown_parameter",
            )
    try:
        return SamplingParams.neutral(**changes)
    except OverflowError:  # an integer that no float can hold
        raise ApiError("A number is too large.", code="invalid_value") from None


def reply_limit(body: Body, rest: int) -> int:
    """`max_new_tokens` for a request whose prompt leaves `rest` tokens of the context.

    A limit beyond the context ends there, with finish_reason "length", since clients
    send generous limits without knowing the model. Raises ApiError.
    """
    given = {
        name: value
        for name in ("max_tokens", "max_completion_tokens", "max_new_tokens")
        if (value := getattr(body, name, None)) is not None
    }
    if len(set(given.values())) > 1:
        raise ApiError(
            f"{' and '.join(given)} mean the same; give one of them.", param=list(given)[-1]
        )
    most = int(knobs()["max_new_tokens"].maximum)
    if not given:
        return min(rest, most)
    name, wanted = next(iter(given.items()))
    limit = min(rest, int(wanted))
    if limit > most:
        raise ApiError(f"{name} can be {most:,} at most.", param=name, code="invalid_value")
    return limit


def _as_lines(bias: object) -> object:
    """OpenAI's map from token ids to biases, as `SamplingParams` takes it: ["id:bias"]."""
    if not isinstance(bias, dict):
        return bias
    return [f"{i}:{b:.3f}" if isinstance(b, float) else f"{i}:{b}" for i, b in bias.items()]


def _check_neutral(name: str, value: object) -> None:
    if value not in _ONLY_NEUTRAL[name]:
        raise ApiError(
            f"{name} is not supported; leave it out.", param=name, code="unsupported_parameter"
        )
