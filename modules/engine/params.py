"""`SamplingParams`: everything that shapes a reply, described once.

Each field carries a `Knob`: label, range, neutral value, one sentence of help, and
the source of the method. The page's widgets, the API's bounds and the documentation
are generated from it, so that a new sampler is one field here and one processor in
`modules/engine/worker/sampler.py`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from modules.errors import InvalidInputError

__all__ = ["GROUPS", "Knob", "SamplingParams", "knobs"]

GROUPS = ("Temperature", "Cut-offs", "Repetition", "Length and stopping", "Expert")
"""The order of the groups in the page."""

Kind = Literal["number", "integer", "switch", "strings"]


@dataclass(frozen=True, slots=True)
class Knob:
    """What the page, the API and the docs say about one field of `SamplingParams`.

    `neutral` is the value at which the field changes nothing.
    """

    label: str
    group: str
    help: str
    kind: Kind
    neutral: Any
    minimum: float = 0
    maximum: float = 0
    step: float = 0
    source: str = ""


def _knob(default: Any, **about: Any) -> Any:
    knob = Knob(**about)
    if isinstance(default, tuple):
        return dataclasses.field(default_factory=lambda: default, metadata={"knob": knob})
    return dataclasses.field(default=default, metadata={"knob": knob})


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen, and when to stop. Checked on construction.

    The defaults are those of the page; the API starts from `SamplingParams.neutral()`.
    Raises InvalidInputError, naming the field, for a value out of its bounds.
    """

    temperature: float = _knob(
        0.7,
        label="Temperature",
        group="Temperature",
        kind="number",
        minimum=0,
        maximum=5,
        step=0.01,
        neutral=1.0,
        help="Flattens (above 1) or sharpens (below 1) the distribution; 0 always takes the "
        "most likely token.",
    )
    do_sample: bool = _knob(
        True,
        label="Sample",
        group="Temperature",
        kind="switch",
        neutral=True,
        help="Off: always take the most likely token, whatever the other knobs say.",
    )
    top_p: float = _knob(
        0.9,
        label="Top p",
        group="Cut-offs",
        kind="number",
        minimum=0,
        maximum=1,
        step=0.01,
        neutral=1.0,
        help="Keep the most likely tokens that together reach this probability.",
        source="https://arxiv.org/abs/1904.09751",
    )
    top_k: int = _knob(
        20,
        label="Top k",
        group="Cut-offs",
        kind="integer",
        minimum=0,
        maximum=200,
        step=1,
        neutral=0,
        help="Keep this many of the most likely tokens; 0 keeps all.",
        source="https://arxiv.org/abs/1805.04833",
    )
    min_p: float = _knob(
        0.0,
        label="Min p",
        group="Cut-offs",
        kind="number",
        minimum=0,
        maximum=1,
        step=0.01,
        neutral=0.0,
        help="Drop tokens less likely than this share of the most likely one.",
        source="https://arxiv.org/abs/2407.01082",
    )
    typical_p: float = _knob(
        1.0,
        label="Typical p",
        group="Cut-offs",
        kind="number",
        minimum=0,
        maximum=1,
        step=0.01,
        neutral=1.0,
        help="Keep the tokens whose surprise is nearest to the expected one, up to this "
        "probability.",
        source="https://arxiv.org/abs/2202.00666",
    )
    repetition_penalty: float = _knob(
        1.15,
        label="Repetition penalty",
        group="Repetition",
        kind="number",
        minimum=1,
        maximum=1.5,
        step=0.01,
        neutral=1.0,
        help="Makes tokens that already stand in the prompt or the reply less likely.",
        source="https://arxiv.org/abs/1909.05858",
    )
    max_new_tokens: int = _knob(
        512,
        label="New tokens, at most",
        group="Length and stopping",
        kind="integer",
        minimum=1,
        maximum=8192,
        step=1,
        neutral=512,
        help="The reply ends after this many tokens.",
    )
    stop: tuple[str, ...] = _knob(
        (),
        label="Stop strings",
        group="Length and stopping",
        kind="strings",
        neutral=(),
        maximum=16,
        help="The reply ends before any of these texts, one a line; \\n stands for a line break.",
    )
    ban_eos_token: bool = _knob(
        False,
        label="Ban the end token",
        group="Length and stopping",
        kind="switch",
        neutral=False,
        help="The model may not end its reply; only the limit, a stop string or you can.",
    )
    seed: int = _knob(
        -1,
        label="Seed",
        group="Expert",
        kind="integer",
        minimum=-1,
        maximum=2**31 - 1,
        step=1,
        neutral=-1,
        help="The same seed, prompt and parameters give the same reply; -1 draws a new seed.",
    )
    truncation_length: int = _knob(
        0,
        label="Context used",
        group="Expert",
        kind="integer",
        minimum=0,
        maximum=131072,
        step=256,
        neutral=0,
        help="Use no more than this many tokens of the model's context; 0 uses all of it.",
    )

    def __post_init__(self) -> None:
        for name, knob in knobs().items():
            object.__setattr__(self, name, _checked(name, knob, getattr(self, name)))

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return not self.do_sample or self.temperature == 0

    @classmethod
    def neutral(cls, **changes: Any) -> SamplingParams:
        """The parameters at which nothing is altered, with `changes` applied."""
        return cls(**{name: knob.neutral for name, knob in knobs().items()} | changes)

    def replace(self, **changes: Any) -> SamplingParams:
        """A copy with `changes` applied, checked again."""
        return dataclasses.replace(self, **changes)


def knobs() -> dict[str, Knob]:
    """The `Knob` of every field of `SamplingParams`, in their order."""
    return {f.name: f.metadata["knob"] for f in dataclasses.fields(SamplingParams)}


def _checked(name: str, knob: Knob, value: Any) -> Any:
    """`value` in the type of its field, or an InvalidInputError that says what would do."""
    match knob.kind:
        case "switch":
            if isinstance(value, bool):
                return value
            raise _refused(name, value, "Use true or false.")
        case "strings":
            return _checked_strings(name, knob, value)
        case "integer":
            number = _number(name, value)
            if not number.is_integer():
                raise _refused(name, value, "Use a whole number.")
            _check_range(name, knob, number)
            return int(number)
        case "number":
            number = _number(name, value)
            _check_range(name, knob, number)
            return number


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _refused(name, value, "Use a number.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _refused(name, "that large", "Use a finite number.")
    return number


def _check_range(name: str, knob: Knob, number: float) -> None:
    if not knob.minimum <= number <= knob.maximum:
        raise _refused(name, f"{number:g}", f"Use {knob.minimum:g} to {knob.maximum:g}.")


def _checked_strings(name: str, knob: Knob, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, list | tuple) or not all(isinstance(s, str) for s in value):
        raise _refused(name, value, "Use a list of strings.")
    strings = tuple(s for s in value if s)
    if len(strings) > knob.maximum or any(len(s) > 200 for s in strings):
        raise _refused(
            name, f"{len(strings)} strings", f"Use at most {knob.maximum:g}, of 200 characters."
        )
    return strings


def _refused(name: str, value: object, remedy: str) -> InvalidInputError:
    shown = str(value)
    return InvalidInputError(
        f"{name} cannot be {shown[:40]}{'...' if len(shown) > 40 else ''}.", remedy, field=name
    )
