"""Forms over tokenizers of other kinds, and vocabularies of other sizes."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from modules.engine.params import SamplingParams
from modules.engine.worker.detokenizer import Detokenizer
from modules.engine.worker.sampler import Sampler
from modules.engine.worker.structure.structure import Structure, Structures
from modules.errors import EngineError
from modules.loader.transformers_loader import LoadedModel

END = 2


@pytest.fixture(scope="module")
def llama_2() -> PreTrainedTokenizerFast:
    """A tokenizer as Llama-2's: spaces are letters, and what has no token is spelled in bytes."""
    vocabulary = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>"])}
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    for token in ["▁", *'abcdefghij{}":,0123456789', "▁a", "bc", "ab", '▁"', '":', "▁▁"]:
        vocabulary.setdefault(token, len(vocabulary))
    merges = [("▁", "a"), ("b", "c"), ("a", "b"), ("▁", '"'), ('"', ":"), ("▁", "▁")]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


@pytest.mark.parametrize("vocab", [400, 512])
@pytest.mark.parametrize(
    "text", ["[a-j é😀-😎]{6}", ' "[a-c]{2}": ä+[0-9]', "( a|bc ab){2}", "[日本語]{3}|ab"]
)
def test_bytes_and_spaces_of_a_sentencepiece_tokenizer(
    llama_2: PreTrainedTokenizerFast, vocab: int, text: str
) -> None:
    """The model has logits for more tokens than the tokenizer knows."""
    torch.manual_seed(0)
    prompt = llama_2("abc")["input_ids"]
    structures = Structures(llama_2)
    for seed in range(6):
        params = SamplingParams.neutral(structure="regex", structure_text=text, seed=seed)
        ends = frozenset({END})
        structure = structures.begin(params, len(prompt), ends)
        sampler = Sampler(params, ends, structure=structure)
        shown, ids, written = Detokenizer(llama_2, prompt, ()), list(prompt), ""
        while (token_id := sampler.sample(torch.randn(vocab), ids)) != END:
            assert token_id < len(llama_2)
            ids.append(token_id)
            written += shown.push(token_id)
        assert re.fullmatch(text, written + shown.flush())


def test_a_model_with_fewer_logits_than_the_tokenizer(tiny: LoadedModel) -> None:
    params = SamplingParams.neutral(structure="regex", structure_text="[a-z]", do_sample=False)
    structure = Structures(tiny.tokenizer).begin(params, 1, frozenset({END}))
    assert structure is not None
    letters = structure.apply(torch.zeros(200), [5])
    assert 0 < letters.isfinite().sum() <= 26 and len(letters) == 200


def test_no_token_that_fits_is_an_error(tiny: LoadedModel) -> None:
    params = SamplingParams.neutral(structure="regex", structure_text="[a-z]")
    structure = Structures(tiny.tokenizer).begin(params, 1, frozenset({END}))
    assert structure is not None
    with pytest.raises(EngineError, match="no token that goes on"):
        structure.apply(torch.zeros(4), [5])


def test_a_token_that_takes_too_long_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        def rollback(self, count: int) -> bool:
            return release.wait(20)

    release = threading.Event()
    monkeypatch.setattr("modules.engine.worker.structure.structure._TOKEN_S", 0.05)
    with ThreadPoolExecutor(2) as threads:
        structure = Structure(threads, Slow, 1, frozenset({END}))  # type: ignore[arg-type]
        with pytest.raises(EngineError, match="seconds for one token"):
            structure.apply(torch.zeros(4), [5])
        release.set()
