"""A tiny random model, really saved and really loaded, for everything about the engine."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from modules.engine.fake import CHATML
from modules.engine.protocol import GenerateRequest
from modules.engine.worker.scheduler import Scheduler
from modules.engine.worker.tokens import end_ids
from modules.loader.options import LoadOptions
from modules.loader.transformers_loader import LoadedModel, load
from tests.engine.helpers import Reply, Spy, serve
from tests.engine.runners import RUNNERS, make_runner

SPECIAL = ["<unk>", "<|im_start|>", "<|im_end|>"]
CORPUS = ["the capital of france is paris and the capital of italy is rome"] * 4
CONTEXT = 256


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE: every text and every emoji goes through it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=SPECIAL[0], bos_token=SPECIAL[1], eos_token=SPECIAL[2]
    )
    fast.chat_template = CHATML
    return fast


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """On a busy server, threads that wait for one another took ten times as long as one."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a two-layer Llama of random weights."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = build_tokenizer()
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        # Wide enough that no two tokens are nearly as likely, so that greedy is stable.
        initializer_range=0.3,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def roomy(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a context that no test comes to the end of."""
    folder = tmp_path_factory.mktemp("models") / "roomy"
    shutil.copytree(checkpoint, folder)
    config = folder / "config.json"
    text = config.read_text().replace(
        '"max_position_embeddings": 256', '"max_position_embeddings": 100000'
    )
    config.write_text(text)
    return folder


@pytest.fixture(scope="session")
def tiny(checkpoint: Path) -> LoadedModel:
    """The model, loaded as the worker loads it."""
    return load(checkpoint, lambda stage, fraction: None, LoadOptions(device="cpu"))


@pytest.fixture(params=RUNNERS)
def spy(request: pytest.FixtureRequest, tiny: LoadedModel) -> Spy:
    """A real runner, which notes what each sequence became."""
    return Spy(make_runner(request.param, tiny.model, CONTEXT))


@pytest.fixture
def make_scheduler(tiny: LoadedModel, spy: Spy) -> Callable[..., Scheduler]:
    """A scheduler over the tiny model; keyword arguments go to `Scheduler`."""
    ends = end_ids(tiny.model.generation_config, tiny.tokenizer)

    def make(**options: int) -> Scheduler:
        return Scheduler(spy, tiny.tokenizer, ends, **{"context_length": CONTEXT, **options})

    return make


@pytest.fixture
def run(make_scheduler: Callable[..., Scheduler]) -> Callable[..., dict[str, Reply]]:
    """Serve requests to their end with a fresh scheduler."""

    def run(*requests: GenerateRequest, **options: int) -> dict[str, Reply]:
        return serve(make_scheduler(**options), requests)

    return run


@pytest.fixture
def reference(tiny: LoadedModel) -> Callable[..., list[int]]:
    """What `generate` gives: the ids of the reply, without the end token."""

    def generate(ids: Iterable[int], **options: object) -> list[int]:
        prompt = torch.tensor([list(ids)])
        mask = torch.ones_like(prompt)
        with torch.inference_mode():
            whole = tiny.model.generate(prompt, attention_mask=mask, do_sample=False, **options)
        reply = whole[0, prompt.shape[1] :].tolist()
        return reply[:-1] if reply[-1:] == [2] else reply

    return generate
