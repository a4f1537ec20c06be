"""`SamplingParams`: everything that shapes a reply, described once.

Each field carries a `Knob`: label, range, neutral value, one sentence of help, and
the source of the method. The page's widgets, the API's bounds and the documentation
are generated from it, so that a new sampler is one field here and one processor in
`modules/engine/worker/sampling/`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from modules.engine.knobs import Knob, checked, knob_field

__all__ = ["GROUPS", "SAMPLERS", "Knob", "SamplingParams", "knobs"]

GROUPS = (
    "Temperature",
    "Cut-offs",
    "Repetition",
    "Structure",
    "Length and stopping",
    "Distribution",
    "Decoding",
    "Expert",
)
"""The order of the groups in the page."""

SAMPLERS = (
    "encoder_repetition_penalty",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "dry",
    "no_repeat_ngram",
    "top_n_sigma",
    "temperature",
    "dynamic_temperature",
    "quadratic_sampling",
    "top_k",
    "top_p",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
    "tfs",
    "top_a",
    "min_p",
    "mirostat",
    "xtc",
    "adaptive_p",
)
"""The samplers by the names of text-generation-webui, in the order in which they work."""

Bounds = tuple[float, float, float]
"""Least, most, and step of a slider."""

_NEW: Any = object()
"""Stands for "the neutral value" where a default is not given."""


def _number(neutral: float, bounds: Bounds, default: float = _NEW, **about: str) -> Any:
    return _knob("number", neutral, bounds, default, **about)


def _integer(neutral: int, bounds: Bounds, default: int = _NEW, **about: str) -> Any:
    return _knob("integer", neutral, bounds, default, **about)


def _switch(neutral: bool, **about: str) -> Any:
    return _knob("switch", neutral, (0, 0, 0), _NEW, **about)


def _strings(neutral: tuple[str, ...], count: int, **about: Any) -> Any:
    return _knob("strings", neutral, (0, count, 0), _NEW, **about)


def _choice(neutral: str, choices: tuple[str, ...], **about: Any) -> Any:
    return _knob("choice", neutral, (0, 0, 0), _NEW, choices=choices, **about)


def _text(characters: int, **about: Any) -> Any:
    return _knob("text", "", (0, characters, 0), _NEW, **about)


def _knob(kind: Any, neutral: Any, bounds: Bounds, default: Any, **about: Any) -> Any:
    least, most, step = bounds
    knob = Knob(kind=kind, neutral=neutral, minimum=least, maximum=most, step=step, **about)
    return knob_field(knob, neutral if default is _NEW else default)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen, and when to stop. Checked on construction.

    The defaults are those of the page; the API starts from `SamplingParams.neutral()`.
    Raises InvalidInputError, naming the field, for a value out of its bounds.
    """

    temperature: float = _number(
        1.0,
        (0, 5, 0.01),
        0.7,
        label="Temperature",
        group="Temperature",
        help="Flattens (above 1) or sharpens (below 1) the distribution; 0 always takes the "
        "most likely token.",
    )
    do_sample: bool = _switch(
        True,
        label="Sample",
        group="Temperature",
        help="Off: always take the most likely token, whatever the other knobs say.",
    )
    temperature_last: bool = _switch(
        False,
        label="Temperature last",
        group="Temperature",
        help="Applies the temperature after the cut-offs, so that it changes only what they left.",
    )
    top_p: float = _number(
        1.0,
        (0, 1, 0.01),
        0.9,
        label="Top p",
        group="Cut-offs",
        help="Keep the most likely tokens that together reach this probability.",
        source="https://arxiv.org/abs/1904.09751",
    )
    top_k: int = _integer(
        0,
        (0, 200, 1),
        20,
        label="Top k",
        group="Cut-offs",
        help="Keep this many of the most likely tokens; 0 keeps all.",
        source="https://arxiv.org/abs/1805.04833",
    )
    min_p: float = _number(
        0.0,
        (0, 1, 0.01),
        label="Min p",
        group="Cut-offs",
        help="Drop tokens less likely than this share of the most likely one.",
        source="https://arxiv.org/abs/2407.01082",
    )
    typical_p: float = _number(
        1.0,
        (0, 1, 0.01),
        label="Typical p",
        group="Cut-offs",
        help="Keep the tokens whose surprise is nearest to the expected one, up to this "
        "probability.",
        source="https://arxiv.org/abs/2202.00666",
    )
    tfs: float = _number(
        1.0,
        (0, 1, 0.01),
        label="Tail free",
        group="Cut-offs",
        help="Drop the tail of the distribution from where its curve flattens; 1 keeps all.",
        source="https://www.trentonbricken.com/Tail-Free-Sampling/",
    )
    top_a: float = _number(
        0.0,
        (0, 1, 0.01),
        label="Top a",
        group="Cut-offs",
        help="Drop tokens less likely than this times the square of the highest probability.",
        source="https://github.com/BlinkDL/RWKV-LM#the-top-a-sampling-method",
    )
    top_n_sigma: float = _number(
        0.0,
        (0, 5, 0.05),
        label="Top n sigma",
        group="Cut-offs",
        help="Drop tokens whose logit lies more than this many standard deviations below the "
        "highest; 0 keeps all.",
        source="https://arxiv.org/abs/2411.07641",
    )
    epsilon_cutoff: float = _number(
        0.0,
        (0, 9, 0.01),
        label="Epsilon cutoff",
        group="Cut-offs",
        help="Drop tokens with a probability below this many ten-thousandths.",
        source="https://arxiv.org/abs/2210.15191",
    )
    eta_cutoff: float = _number(
        0.0,
        (0, 20, 0.01),
        label="Eta cutoff",
        group="Cut-offs",
        help="Like the epsilon cutoff, in ten-thousandths, but lower where the model is unsure.",
        source="https://arxiv.org/abs/2210.15191",
    )
    repetition_penalty: float = _number(
        1.0,
        (1, 1.5, 0.01),
        1.15,
        label="Repetition penalty",
        group="Repetition",
        help="Makes tokens that already stand in the prompt or the reply less likely.",
        source="https://arxiv.org/abs/1909.05858",
    )
    presence_penalty: float = _number(
        0.0,
        (-2, 2, 0.01),
        label="Presence penalty",
        group="Repetition",
        help="Subtracted once from the logit of each token that already occurred.",
        source="https://platform.openai.com/docs/api-reference/completions/create",
    )
    frequency_penalty: float = _number(
        0.0,
        (-2, 2, 0.01),
        label="Frequency penalty",
        group="Repetition",
        help="Subtracted from the logit of a token for each time it already occurred.",
        source="https://platform.openai.com/docs/api-reference/completions/create",
    )
    repetition_penalty_range: int = _integer(
        0,
        (0, 4096, 64),
        label="Penalty range",
        group="Repetition",
        help="The penalties above and DRY look at this many of the last tokens; 0 is all.",
    )
    encoder_repetition_penalty: float = _number(
        1.0,
        (0.8, 1.5, 0.01),
        label="Prompt token bonus",
        group="Repetition",
        help="Makes tokens of the prompt more likely (above 1) or less likely (below 1).",
        source="https://huggingface.co/docs/transformers/internal/generation_utils",
    )
    no_repeat_ngram_size: int = _integer(
        0,
        (0, 20, 1),
        label="No repeated phrase of",
        group="Repetition",
        help="No run of this many tokens occurs twice, the prompt included; 0 allows all.",
        source="https://arxiv.org/abs/1705.04304",
    )
    dry_multiplier: float = _number(
        0.0,
        (0, 5, 0.01),
        label="DRY strength",
        group="Repetition",
        help="Makes a token that would prolong a repeated phrase less likely; 0 is off, 0.8 usual.",
        source="https://github.com/oobabooga/text-generation-webui/pull/5677",
    )
    dry_allowed_length: int = _integer(
        2,
        (1, 20, 1),
        label="DRY allowed length",
        group="Repetition",
        help="A repeated phrase shorter than this many tokens is not penalised.",
        source="https://github.com/oobabooga/text-generation-webui/pull/5677",
    )
    dry_base: float = _number(
        1.75,
        (1, 4, 0.01),
        label="DRY base",
        group="Repetition",
        help="The penalty grows by this factor with each token that the phrase is longer.",
        source="https://github.com/oobabooga/text-generation-webui/pull/5677",
    )
    dry_sequence_breakers: tuple[str, ...] = _strings(
        ("\n", ":", '"', "*"),
        32,
        label="DRY sequence breakers",
        group="Repetition",
        help="A repeated phrase ends at any of these, one a line; \\n stands for a line break.",
        source="https://github.com/oobabooga/text-generation-webui/pull/5677",
    )
    max_new_tokens: int = _integer(
        512,
        (1, 8192, 1),
        label="New tokens, at most",
        group="Length and stopping",
        help="The reply ends after this many tokens.",
    )
    min_length: int = _integer(
        0,
        (0, 2000, 1),
        label="New tokens, at least",
        group="Length and stopping",
        help="The model may not end its reply before this many tokens.",
    )
    stop: tuple[str, ...] = _strings(
        (),
        16,
        label="Stop strings",
        group="Length and stopping",
        help="The reply ends before any of these texts, one a line; \\n stands for a line break.",
    )
    ban_eos_token: bool = _switch(
        False,
        label="Ban the end token",
        group="Length and stopping",
        help="The model may not end its reply; only the limit, a stop string or you can.",
    )
    dynamic_temperature: bool = _switch(
        False,
        label="Dynamic temperature",
        group="Distribution",
        help="A further temperature that follows how unsure the model is, between the two below.",
        source="https://github.com/ggml-org/llama.cpp/pull/4972",
    )
    dynatemp_low: float = _number(
        1.0,
        (0.01, 5, 0.01),
        label="Dynamic temperature, lowest",
        group="Distribution",
        help="The dynamic temperature where the model is sure.",
        source="https://github.com/ggml-org/llama.cpp/pull/4972",
    )
    dynatemp_high: float = _number(
        1.0,
        (0.01, 5, 0.01),
        label="Dynamic temperature, highest",
        group="Distribution",
        help="The dynamic temperature where all tokens are equally likely.",
        source="https://github.com/ggml-org/llama.cpp/pull/4972",
    )
    dynatemp_exponent: float = _number(
        1.0,
        (0.01, 5, 0.01),
        label="Dynamic temperature, exponent",
        group="Distribution",
        help="Above 1 the dynamic temperature stays low for longer, below 1 it rises sooner.",
        source="https://github.com/ggml-org/llama.cpp/pull/4972",
    )
    smoothing_factor: float = _number(
        0.0,
        (0, 10, 0.01),
        label="Smoothing factor",
        group="Distribution",
        help="Evens out the likely tokens and pushes down the unlikely ones; 0 is off.",
        source="https://github.com/oobabooga/text-generation-webui/pull/5403",
    )
    smoothing_curve: float = _number(
        1.0,
        (1, 10, 0.01),
        label="Smoothing curve",
        group="Distribution",
        help="How steeply smoothing pushes unlikely tokens down; 1 is a parabola.",
        source="https://github.com/oobabooga/text-generation-webui/pull/5551",
    )
    xtc_probability: float = _number(
        0.0,
        (0, 1, 0.01),
        label="XTC probability",
        group="Distribution",
        help="How often the most likely tokens are left out in favour of a rarer good one.",
        source="https://github.com/oobabooga/text-generation-webui/pull/6335",
    )
    xtc_threshold: float = _number(
        0.1,
        (0, 0.5, 0.01),
        label="XTC threshold",
        group="Distribution",
        help="XTC leaves out all tokens at least this likely but the least likely of them.",
        source="https://github.com/oobabooga/text-generation-webui/pull/6335",
    )
    mirostat_mode: int = _integer(
        0,
        (0, 2, 1),
        label="Mirostat mode",
        group="Distribution",
        help="Steers the surprise of the reply to a target: 1 by a varying top k, 2 by a "
        "varying cut-off, 0 not at all.",
        source="https://arxiv.org/abs/2007.14966",
    )
    mirostat_tau: float = _number(
        5.0,
        (0, 10, 0.01),
        label="Mirostat target",
        group="Distribution",
        help="The surprise a token, in bits, that Mirostat steers to.",
        source="https://arxiv.org/abs/2007.14966",
    )
    mirostat_eta: float = _number(
        0.1,
        (0, 1, 0.01),
        label="Mirostat rate",
        group="Distribution",
        help="How fast Mirostat corrects itself.",
        source="https://arxiv.org/abs/2007.14966",
    )
    adaptive_target: float = _number(
        0.0,
        (0, 1, 0.01),
        label="Adaptive target",
        group="Distribution",
        help="Prefers tokens about this likely, on average over the reply; 0 is off; set a "
        "cut-off such as min p with it.",
        source="https://github.com/ggml-org/llama.cpp/pull/17927",
    )
    adaptive_decay: float = _number(
        0.9,
        (0, 0.99, 0.01),
        label="Adaptive decay",
        group="Distribution",
        help="How much of the reply the adaptive target averages over; higher is more.",
        source="https://github.com/ggml-org/llama.cpp/pull/17927",
    )
    guidance_scale: float = _number(
        1.0,
        (-0.5, 2.5, 0.05),
        label="Guidance scale",
        group="Decoding",
        help="Above 1 the reply keeps away from what the negative prompt would bring, below 1 "
        "it comes nearer; 1 is off, and anything else takes twice the time.",
        source="https://arxiv.org/abs/2306.17806",
    )
    negative_prompt: str = _text(
        10_000,
        label="Negative prompt",
        group="Decoding",
        help="What guidance keeps away from, as plain text; empty, it is the last token of the "
        "prompt alone.",
        source="https://arxiv.org/abs/2306.17806",
    )
    penalty_alpha: float = _number(
        0.0,
        (0, 5, 0.05),
        label="Contrastive penalty",
        group="Decoding",
        help="Contrastive search: of the top k tokens, avoids those that say again what was "
        "said; 0 is off, 0.6 usual, with top k 4 and sampling off.",
        source="https://arxiv.org/abs/2202.06417",
    )
    num_beams: int = _integer(
        1,
        (1, 20, 1),
        label="Beams",
        group="Decoding",
        help="Beam search: this many replies grow at once, with sampling off, and the likeliest "
        "is shown; 1 is off.",
        source="https://huggingface.co/blog/how-to-generate#beam-search",
    )
    length_penalty: float = _number(
        1.0,
        (-5, 5, 0.1),
        label="Length penalty",
        group="Decoding",
        help="Beam search prefers longer replies above 0, and shorter ones below.",
        source="https://huggingface.co/docs/transformers/main_classes/text_generation",
    )
    early_stopping: bool = _switch(
        False,
        label="Stop beams early",
        group="Decoding",
        help="Beam search ends as soon as there are as many whole replies as beams.",
        source="https://huggingface.co/docs/transformers/main_classes/text_generation",
    )
    prompt_lookup_num_tokens: int = _integer(
        0,
        (0, 10, 1),
        label="Prompt lookup",
        group="Decoding",
        help="Guesses up to this many tokens from what followed the same words before: the same "
        "reply, sooner where it repeats its prompt; 0 is off.",
        source="https://github.com/apoorvumang/prompt-lookup-decoding",
    )
    seed: int = _integer(
        -1,
        (-1, 2**31 - 1, 1),
        label="Seed",
        group="Expert",
        help="The same seed, prompt and parameters give the same reply; -1 draws a new seed.",
    )
    truncation_length: int = _integer(
        0,
        (0, 131072, 256),
        label="Context used",
        group="Expert",
        help="Use no more than this many tokens of the model's context; 0 uses all of it.",
    )
    custom_token_bans: tuple[str, ...] = _strings(
        (),
        256,
        label="Banned tokens",
        group="Expert",
        pattern="[0-9]{1,7}",
        example="128001",
        help="The ids of tokens that never occur in a reply, one a line.",
    )
    logit_bias: tuple[str, ...] = _strings(
        (),
        256,
        label="Logit bias",
        group="Expert",
        pattern=r"[0-9]{1,7}:-?(100(\.0{1,3})?|[0-9]{1,2}(\.[0-9]{1,3})?)",
        example="128001:-2.5",
        help="Added to the logit of a token, as id:bias, one a line; from -100 to 100.",
        source="https://platform.openai.com/docs/api-reference/completions/create",
    )
    sampler_priority: tuple[str, ...] = _strings(
        (),
        len(SAMPLERS),
        label="Order of the samplers",
        group="Expert",
        choices=SAMPLERS,
        help="Samplers that work first, one a line; the others follow in their usual order.",
    )
    structure: str = _choice(
        "none",
        ("none", "json", "json_schema", "regex", "gbnf"),
        label="Form of the reply",
        group="Structure",
        help="The reply keeps to it, whatever the other knobs say: any JSON object, or the JSON "
        "schema, regular expression or grammar below.",
        source="https://github.com/guidance-ai/llguidance",
    )
    structure_text: str = _text(
        65_536,
        label="Schema, expression or grammar",
        group="Structure",
        example='{"enum": ["yes", "no"]}',
        help="A JSON schema, a regular expression for the whole reply, or a grammar as llama.cpp "
        "has them (GBNF); not used with none and json.",
        source="https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md",
    )

    def __post_init__(self) -> None:
        for name, knob in knobs().items():
            object.__setattr__(self, name, checked(name, knob, getattr(self, name)))

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


@functools.cache
def knobs() -> Mapping[str, Knob]:
    """The `Knob` of every field of `SamplingParams`, in their order."""
    fields = dataclasses.fields(SamplingParams)
    return MappingProxyType({f.name: f.metadata["knob"] for f in fields})
