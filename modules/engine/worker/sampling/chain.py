"""From the parameters of a request to its logits processors, in order.

A sampling parameter is one entry in a table below: its name, and how to make the logits
processor. A neutral value makes none, so neutral parameters leave the logits bit for bit
as the model gave them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    EncoderRepetitionPenaltyLogitsProcessor,
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from modules.engine.params import SAMPLERS, SamplingParams
from modules.engine.worker.sampling.feedback import AdaptiveP, MirostatOne, MirostatTwo
from modules.engine.worker.sampling.penalties import Dry, OccurrencePenalty, Ranged, Sparing
from modules.engine.worker.sampling.temperature import DynamicTemperature, QuadraticSmoothing
from modules.engine.worker.sampling.truncation import (
    ExcludeTopChoices,
    TailFree,
    TopA,
    TopNSigma,
)

__all__ = [
    "BANS",
    "PENALTIES",
    "WARPERS",
    "Situation",
    "make_chain",
    "named_chain",
    "sampler_order",
]


@dataclass(frozen=True, slots=True)
class Situation:
    """What processors are made from: the parameters, and where they are to work.

    `tokens_of` gives the ids of a text without special tokens.
    """

    params: SamplingParams
    prompt_ids: list[int]
    vocab: int
    eos_ids: frozenset[int]
    tokens_of: Callable[[str], list[int]]
    seed: int
    device: torch.device

    def tensor(self, ids: list[int]) -> Tensor:
        """Those of `ids` that the model has a logit for, on the device."""
        known = sorted({i for i in ids if 0 <= i < self.vocab})
        return torch.tensor(known, dtype=torch.long, device=self.device)


Factory = Callable[[SamplingParams, Situation], LogitsProcessor | None]


def make_chain(situation: Situation) -> LogitsProcessorList:
    """The processors of a request: bans, penalties, and then what shapes a random choice."""
    return LogitsProcessorList(named_chain(situation).values())


def named_chain(situation: Situation) -> dict[str, LogitsProcessor]:
    """The processors of `make_chain` by name, in their order."""
    params = situation.params
    table = {**BANS, **PENALTIES} if params.greedy else {**BANS, **PENALTIES, **WARPERS}
    order = (*BANS, *sampler_order(params.sampler_priority, params.temperature_last))
    made = {name: table[name](params, situation) for name in order if name in table}
    return {name: processor for name, processor in made.items() if processor is not None}


def sampler_order(priority: Iterable[str], temperature_last: bool) -> list[str]:
    """The names of all samplers, those of `priority` first."""
    order = list(dict.fromkeys((*priority, *SAMPLERS)))
    if temperature_last:
        late = {"temperature", "dynamic_temperature", "quadratic_sampling", "adaptive_p"}
        order.sort(key=lambda name: name in late)
    return order


def _ban_eos(p: SamplingParams, about: Situation) -> LogitsProcessor | None:
    if not p.ban_eos_token:
        return None
    return Sparing(SuppressTokensLogitsProcessor(sorted(about.eos_ids)))


def _min_length(p: SamplingParams, about: Situation) -> LogitsProcessor | None:
    if not p.min_length or not about.eos_ids:
        return None
    ends = about.tensor(list(about.eos_ids))
    return Sparing(MinNewTokensLengthLogitsProcessor(len(about.prompt_ids), p.min_length, ends))


def _token_bans(p: SamplingParams, about: Situation) -> LogitsProcessor | None:
    if not p.custom_token_bans:
        return None
    return Sparing(SuppressTokensLogitsProcessor([int(i) for i in p.custom_token_bans]))


def _logit_bias(p: SamplingParams, about: Situation) -> LogitsProcessor | None:
    pairs = (entry.split(":") for entry in p.logit_bias)
    biases = {int(token): float(bias) for token, bias in pairs}
    known: Any = [[[token], bias] for token, bias in biases.items() if token < about.vocab]
    return SequenceBiasLogitsProcessor(known) if known else None


BANS: Mapping[str, Factory] = {
    "ban_eos_token": _ban_eos,
    "min_length": _min_length,
    "custom_token_bans": _token_bans,
    "logit_bias": _logit_bias,
}
"""Applied first, in this order, and to greedy choice too."""


def _prompt_bonus(p: SamplingParams, about: Situation) -> LogitsProcessor | None:
    if p.encoder_repetition_penalty == 1:
        return None
    prompt: Any = about.tensor(about.prompt_ids)[None]
    return EncoderRepetitionPenaltyLogitsProcessor(p.encoder_repetition_penalty, prompt)


def _ranged(p: SamplingParams, processor: LogitsProcessor) -> LogitsProcessor:
    count = p.repetition_penalty_range
    return Ranged(processor, count) if count else processor


def _repetition(p: SamplingParams, about: Situation) -> LogitsProcessor | None:
    if p.repetition_penalty == 1:
        return None
    return _ranged(p, RepetitionPenaltyLogitsProcessor(p.repetition_penalty))


def _presence(p: SamplingParams, about: Situation) -> LogitsProcessor | None:
    return _ranged(p, OccurrencePenalty(p.presence_penalty, 0)) if p.presence_penalty else None


def _frequency(p: SamplingParams, about: Situation) -> LogitsProcessor | None:
    return _ranged(p, OccurrencePenalty(0, p.frequency_penalty)) if p.frequency_penalty else None


def _dry(p: SamplingParams, about: Situation) -> LogitsProcessor | None:
    if not p.dry_multiplier:
        return None
    # After a letter, since some tokenizers write a text's beginning with a token of its own.
    breakers = [ids[-1] for s in p.dry_sequence_breakers if (ids := about.tokens_of(f"a{s}"))]
    return _ranged(
        p, Dry(p.dry_multiplier, p.dry_base, p.dry_allowed_length, about.tensor(breakers))
    )


def _no_repeat(p: SamplingParams, about: Situation) -> LogitsProcessor | None:
    size = p.no_repeat_ngram_size
    return Sparing(NoRepeatNGramLogitsProcessor(size)) if size else None


PENALTIES: Mapping[str, Factory] = {
    "encoder_repetition_penalty": _prompt_bonus,
    "repetition_penalty": _repetition,
    "presence_penalty": _presence,
    "frequency_penalty": _frequency,
    "dry": _dry,
    "no_repeat_ngram": _no_repeat,
}
"""For greedy choice too, as `generate` does. Applied in the order of the request."""


def _dynamic_temperature(p: SamplingParams, about: Situation) -> LogitsProcessor | None:
    if not p.dynamic_temperature or p.dynatemp_low == p.dynatemp_high == 1:
        return None
    return DynamicTemperature(p.dynatemp_low, p.dynatemp_high, p.dynatemp_exponent)


def _mirostat(p: SamplingParams, about: Situation) -> LogitsProcessor | None:
    if not p.mirostat_mode:
        return None
    kind = MirostatOne if p.mirostat_mode == 1 else MirostatTwo
    return kind(p.mirostat_tau, p.mirostat_eta)


def _xtc(p: SamplingParams, about: Situation) -> LogitsProcessor | None:
    if not p.xtc_probability:
        return None
    protected = about.tensor([*about.eos_ids, *about.tokens_of("a\n")[-1:]])
    return ExcludeTopChoices(p.xtc_threshold, p.xtc_probability, protected, about.seed)


WARPERS: Mapping[str, Factory] = {
    "top_n_sigma": lambda p, _: TopNSigma(p.top_n_sigma) if p.top_n_sigma else None,
    # Below 1e-5 the quotient overflows float32; the choice is greedy long before.
    "temperature": lambda p, _: (
        TemperatureLogitsWarper(max(p.temperature, 1e-5)) if p.temperature != 1 else None
    ),
    "dynamic_temperature": _dynamic_temperature,
    "quadratic_sampling": lambda p, _: (
        QuadraticSmoothing(p.smoothing_factor, p.smoothing_curve) if p.smoothing_factor else None
    ),
    "top_k": lambda p, _: TopKLogitsWarper(p.top_k) if p.top_k else None,
    "top_p": lambda p, _: TopPLogitsWarper(p.top_p) if p.top_p < 1 else None,
    # The processor refuses 0; this keeps one token, which is what 0 says.
    "typical_p": lambda p, _: (
        TypicalLogitsWarper(max(p.typical_p, 1e-6)) if p.typical_p < 1 else None
    ),
    # The processors refuse what underflows to 0.
    "epsilon_cutoff": lambda p, _: (
        EpsilonLogitsWarper(epsilon) if (epsilon := p.epsilon_cutoff * 1e-4) else None
    ),
    "eta_cutoff": lambda p, about: (
        EtaLogitsWarper(epsilon, device=str(about.device))
        if (epsilon := p.eta_cutoff * 1e-4)
        else None
    ),
    "tfs": lambda p, _: TailFree(p.tfs) if p.tfs < 1 else None,
    "top_a": lambda p, _: TopA(p.top_a) if p.top_a else None,
    "min_p": lambda p, _: MinPLogitsWarper(p.min_p) if p.min_p else None,
    "mirostat": _mirostat,
    "xtc": _xtc,
    "adaptive_p": lambda p, _: (
        AdaptiveP(p.adaptive_target, p.adaptive_decay) if p.adaptive_target else None
    ),
}
"""When the choice is random. Applied in the order of the request."""
