"""`make_method`: the method of decoding that a request asks for."""

from __future__ import annotations

from modules.engine.methods import method_of
from modules.engine.worker.decoding.beams import BeamSearch
from modules.engine.worker.decoding.contrastive import Contrastive
from modules.engine.worker.decoding.guidance import Guidance
from modules.engine.worker.decoding.method import Method
from modules.engine.worker.decoding.prompt_lookup import PromptLookup
from modules.engine.worker.runner import Runner
from modules.engine.worker.sequence import Sequence
from modules.engine.worker.tokens import encode

__all__ = ["make_method"]


def make_method(seq: Sequence, runner: Runner, context: int) -> Method:
    """For a context of so many tokens. Raises PromptTooLongError for a negative prompt."""
    params = seq.request.params
    match method_of(params):
        case "guidance_scale":
            text, special = params.negative_prompt, seq.request.special_tokens
            negative = encode(seq.tokenizer, text, special) if text else []
            return Guidance(seq, runner, negative, context)
        case "penalty_alpha":
            return Contrastive(seq, runner)
        case "num_beams":
            return BeamSearch(seq, runner)
        case "prompt_lookup_num_tokens":
            return PromptLookup(seq, runner)
        case _:
            return Method(seq, runner)
