"""Requests for the tests of the batch sampler: each parameter alone, and many together."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from modules.engine.params import SAMPLERS, SamplingParams
from modules.engine.worker.sampler import Sampler

__all__ = ["SETTINGS", "TEXT", "logits_of", "random_changes", "sampler"]

TEXT = [3, 7, 9, 7, 12, 3, 7, 12, 21, 3, 7]
BREAKERS = {":": [12], "\n": [5]}
ENDS = frozenset({0, 2})

SETTINGS: dict[str, dict[str, Any]] = {
    "neutral": {},
    "greedy": {"temperature": 0},
    "greedy with penalties": {
        "do_sample": False,
        "repetition_penalty": 1.5,
        "frequency_penalty": 0.7,
        "no_repeat_ngram_size": 3,
    },
    "temperature": {"temperature": 1.7},
    "coldest": {"temperature": 1e-7},
    "dynamic temperature": {
        "dynamic_temperature": True,
        "dynatemp_low": 0.4,
        "dynatemp_high": 3,
        "dynatemp_exponent": 1.4,
    },
    "smoothing": {"smoothing_factor": 0.3},
    "smoothing curve": {"smoothing_factor": 0.1, "smoothing_curve": 8, "top_p": 0.9},
    "top k": {"top_k": 9},
    "top k of one": {"top_k": 1},
    "top k of all that may be": {"top_k": 200},
    "top p": {"top_p": 0.8},
    "top p of none": {"top_p": 0},
    "min p": {"min_p": 0.2},
    "typical p": {"typical_p": 0.6},
    "epsilon": {"epsilon_cutoff": 9},
    "eta": {"eta_cutoff": 20},
    "tail free": {"tfs": 0.9},
    "tail free of none": {"tfs": 0},
    "top a": {"top_a": 0.3},
    "top n sigma": {"top_n_sigma": 1.2},
    "xtc": {"xtc_probability": 1, "xtc_threshold": 0.07},
    "mirostat 1": {"mirostat_mode": 1, "mirostat_tau": 1.5},
    "mirostat 2": {"mirostat_mode": 2, "mirostat_tau": 1.7},
    "adaptive": {"adaptive_target": 0.2, "min_p": 0.05},
    "repetition": {"repetition_penalty": 1.4},
    "repetition in range": {"repetition_penalty": 1.4, "repetition_penalty_range": 4},
    "presence": {"presence_penalty": 1.3},
    "frequency in range": {"frequency_penalty": -0.6, "repetition_penalty_range": 5},
    "prompt bonus": {"encoder_repetition_penalty": 1.3},
    "dry": {"dry_multiplier": 0.9, "dry_base": 1.6, "dry_allowed_length": 1},
    "dry in range": {
        "dry_multiplier": 0.9,
        "dry_allowed_length": 1,
        "dry_sequence_breakers": [],
        "repetition_penalty_range": 7,
    },
    "no phrase twice": {"no_repeat_ngram_size": 2},
    "no token twice": {"no_repeat_ngram_size": 1},
    "bans": {"custom_token_bans": ["3", "12", "9999999"]},
    "ban of the end": {"ban_eos_token": True},
    "least length": {"min_length": 3},
    "bias": {"logit_bias": ["3:1.5", "4:-100", "9999999:5"]},
    "the defaults": {"repetition_penalty": 1.15, "temperature": 0.7, "top_k": 20, "top_p": 0.9},
    "temperature last": {
        "temperature": 2,
        "top_p": 0.8,
        "min_p": 0.15,
        "temperature_last": True,
    },
    "top k after top p": {"top_k": 12, "top_p": 0.9, "sampler_priority": ["top_p"]},
    "penalties last": {
        "top_k": 15,
        "top_p": 0.95,
        "frequency_penalty": 1,
        "repetition_penalty": 1.2,
        "dry_multiplier": 1,
        "dry_allowed_length": 1,
        "sampler_priority": ["top_k", "top_p", "tfs", "mirostat"],
    },
    "many": {
        "presence_penalty": 0.5,
        "top_n_sigma": 2,
        "temperature": 1.3,
        "top_a": 0.3,
        "tfs": 0.97,
        "top_p": 0.97,
        "xtc_probability": 1,
        "xtc_threshold": 0.2,
        "mirostat_mode": 2,
        "mirostat_tau": 3,
    },
}

_CHOICES: dict[str, list[Any]] = {
    "temperature": [0.4, 1.6],
    "dynamic_temperature": [True],
    "dynatemp_low": [0.5],
    "dynatemp_high": [2.5],
    "smoothing_factor": [0.1],
    "smoothing_curve": [2, 6],
    "top_k": [5, 30, 200],
    "top_p": [0.5, 0.95],
    "min_p": [0.02, 0.2],
    "typical_p": [0.7],
    "epsilon_cutoff": [5],
    "eta_cutoff": [9],
    "tfs": [0.9],
    "top_a": [0.1],
    "top_n_sigma": [1.5],
    "xtc_probability": [0, 1],
    "mirostat_mode": [1, 2],
    "mirostat_tau": [2.5],
    "adaptive_target": [0.2],
    "repetition_penalty": [1.2],
    "presence_penalty": [0.4],
    "frequency_penalty": [0.3, -0.2],
    "repetition_penalty_range": [6, 30],
    "encoder_repetition_penalty": [0.9, 1.2],
    "no_repeat_ngram_size": [1, 3],
    "dry_multiplier": [0.8],
    "dry_allowed_length": [1, 2],
    "min_length": [2],
    "ban_eos_token": [True],
    "custom_token_bans": [["3", "4"]],
    "logit_bias": [["7:2", "9:-1"]],
    "temperature_last": [True],
    "do_sample": [False],
}


def random_changes(seed: int) -> dict[str, Any]:
    """A few parameters, now and then in another order."""
    draw = random.Random(seed)
    names = draw.sample(sorted(_CHOICES), draw.randint(1, 9))
    changes = {name: draw.choice(_CHOICES[name]) for name in names}
    if draw.random() < 0.3:
        # Adaptive p makes thousands of tokens equal, among which what comes after it may choose.
        changes["sampler_priority"] = draw.sample([s for s in SAMPLERS if s != "adaptive_p"], 5)
    return changes


def sampler(seed: int = 1, **changes: Any) -> Sampler:
    """A request's own sampler."""
    params = SamplingParams.neutral(seed=seed, **changes)
    return Sampler(params, ENDS, lambda text: BREAKERS.get(text[1:], []))


def logits_of(rows: int, vocab: int, seed: int = 5) -> Tensor:
    """Logits with probabilities of many sizes, no two of a row alike."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, vocab, generator=generator) * 3
