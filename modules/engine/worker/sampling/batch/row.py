"""`Row`: what the batch sampler knows of one request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from modules.engine.params import SamplingParams
from modules.engine.worker.sampler import Sampler
from modules.engine.worker.sampling.chain import Situation, named_chain
from modules.engine.worker.sampling.penalties import Dry, Ranged
from modules.engine.worker.sampling.truncation import ExcludeTopChoices

__all__ = ["Row", "make_row"]

_COUNTED = {"repetition_penalty", "presence_penalty", "frequency_penalty"}
_READ = {"dry", "no_repeat_ngram"}
_FORGETFUL = {
    *("ban_eos_token", "custom_token_bans", "logit_bias", "temperature", "dynamic_temperature"),
    *("quadratic_sampling", "top_k", "top_p", "typical_p", "epsilon_cutoff", "eta_cutoff"),
    *("tfs", "top_a", "min_p", "top_n_sigma"),
}


@dataclass(slots=True, eq=False, weakref_slot=True)
class Row:
    """One request in the batch sampler. `slot` is its place in the `State` there.

    `chain` are the names of what its parameters turn on, in order, and `tokens` the token ids
    that some of them are about. `drawn` tokens were drawn for it, or are being drawn: the
    host counts them without having seen them.
    """

    params: SamplingParams
    seed: int
    slot: int
    prompt_tokens: int
    chain: tuple[str, ...]
    tokens: dict[str, list[int]]
    drawn: int = 0

    @property
    def length(self) -> int:
        """Tokens of the prompt and the reply so far."""
        return self.prompt_tokens + self.drawn

    @property
    def short(self) -> bool:
        """Whether the reply may not end yet."""
        return self.drawn < self.params.min_length

    @property
    def active(self) -> tuple[str, ...]:
        """The names of what acts on the next draw."""
        return tuple(name for name in self.chain if name != "min_length" or self.short)

    @property
    def counted(self) -> bool:
        """Whether it matters how often each token occurred."""
        return not _COUNTED.isdisjoint(self.chain)

    @property
    def ranged(self) -> bool:
        """Whether only the last tokens are counted."""
        return self.counted and self.params.repetition_penalty_range > 0

    @property
    def read(self) -> bool:
        """Whether it matters in which order tokens occurred."""
        return self.ranged or not _READ.isdisjoint(self.chain)

    @property
    def forgetful(self) -> bool:
        """Whether a draw depends on its logits and its number alone, so that it can be undone."""
        return _FORGETFUL.issuperset(self.chain)


def make_row(sampler: Sampler, prompt_ids: Sequence[int], vocab: int, slot: int) -> Row:
    """A row for a request, of which the chain says what its parameters turn on."""
    situation = Situation(
        sampler.params,
        list(prompt_ids),
        vocab,
        sampler.eos_ids,
        sampler.tokens_of,
        sampler.seed,
        torch.device("cpu"),
    )
    chain = named_chain(situation)
    params, ends = sampler.params, sorted(sampler.eos_ids)
    tokens = {
        "ban_eos_token": ends,
        "min_length": ends,
        "custom_token_bans": [int(i) for i in params.custom_token_bans],
    }
    if "encoder_repetition_penalty" in chain:
        tokens["encoder_repetition_penalty"] = sorted(set(prompt_ids))
    dry, xtc = chain.get("dry"), chain.get("xtc")
    dry = dry.processor if isinstance(dry, Ranged) else dry
    if isinstance(dry, Dry):
        tokens["dry"] = dry.breakers.tolist()
    if isinstance(xtc, ExcludeTopChoices):
        tokens["xtc"] = xtc.protected.tolist()
    mirostat = f"mirostat {params.mirostat_mode}"
    names = tuple(mirostat if name == "mirostat" else name for name in chain)
    return Row(params, sampler.seed, slot, len(prompt_ids), names, tokens)
