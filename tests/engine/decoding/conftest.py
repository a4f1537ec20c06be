"""Random tiny models, unlike one another, with a scheduler each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from modules.engine.protocol import GenerateRequest
from modules.engine.worker.scheduler import Scheduler
from modules.engine.worker.tokens import encode
from tests.engine.conftest import CONTEXT, build_tokenizer
from tests.engine.helpers import PROMPT, Reply, Spy, serve
from tests.engine.runners import RUNNERS, make_runner


@dataclass
class Lab:
    """A model with random weights in float32, and a runner of its own, one of `RUNNERS`."""

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast
    kind: str
    spy: Spy = field(init=False)

    def __post_init__(self) -> None:
        self.spy = Spy(make_runner(self.kind, self.model, CONTEXT))

    def scheduler(self, **options: int) -> Scheduler:
        options = {"context_length": CONTEXT, **options}
        return Scheduler(self.spy, self.tokenizer, frozenset({2}), **options)  # type: ignore[arg-type]

    def run(self, *requests: GenerateRequest, **options: int) -> dict[str, Reply]:
        return serve(self.scheduler(**options), requests)

    def reply(self, request: GenerateRequest, **options: int) -> list[int]:
        """The tokens of a reply."""
        assert self.run(request, **options)[request.id].finished
        return self.spy.replies[request.id]

    def ids(self, text: str = PROMPT) -> list[int]:
        return encode(self.tokenizer, text, False)

    def generate(self, ids: list[int], **options: object) -> list[int]:
        """What transformers replies, without the end token."""
        prompt = torch.tensor([ids])
        mask = torch.ones_like(prompt)
        with torch.inference_mode():
            whole = self.model.generate(
                prompt, attention_mask=mask, do_sample=False, pad_token_id=0, **options
            )
        reply: list[int] = whole[0, len(ids) :].tolist()
        end = reply.index(2) if 2 in reply else len(reply)
        return reply[:end]

    def held(self) -> set[str]:
        """Whose caches are in use."""
        return self.spy.held()


@cache
def _model(seed: int) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.2,
        tie_word_embeddings=bool(seed % 2),
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).eval(), tokenizer


@pytest.fixture(scope="session", params=RUNNERS)
def make_lab(request: pytest.FixtureRequest) -> Callable[[int], Lab]:
    """A lab with the weights of a seed."""
    return lambda seed: Lab(*_model(seed), request.param)


@pytest.fixture
def lab(make_lab: Callable[[int], Lab]) -> Lab:
    """One of them."""
    return make_lab(1)
