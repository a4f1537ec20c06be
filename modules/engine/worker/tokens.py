"""From text to token ids, the same way for a request and for a count."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["encode", "end_ids", "input_ids", "stop_ids"]


def input_ids(model: PreTrainedModel, ids: list[int]) -> Tensor:
    """`ids` as the model takes them: [1, len(ids)], on its device."""
    # Weights that are offloaded lie nowhere between forwards; their hooks move the input.
    device = "cpu" if model.device.type == "meta" else model.device
    return torch.tensor([ids], device=device)


def encode(tokenizer: PreTrainedTokenizerBase, text: str, special_tokens: bool) -> list[int]:
    """The token ids of `text`, with the tokenizer's own BOS where `special_tokens` asks for it.

    A text that begins with the BOS already does not get a second one, and nothing gets an
    end token: the reply would begin after the end.
    """
    # A lone surrogate (half of a broken emoji) has no UTF-8 form; tokenizers refuse it.
    text = text.encode("utf-8", "replace").decode("utf-8")
    ids: list[int] = list(tokenizer(text, add_special_tokens=special_tokens)["input_ids"])
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if special_tokens and bos is not None and ids[:2] == [bos, bos]:
        ids = ids[1:]
    if special_tokens and eos is not None and eos != bos and ids[-1:] == [eos]:
        ids = ids if text.endswith(str(tokenizer.eos_token)) else ids[:-1]
    return ids


def end_ids(
    generation: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase
) -> frozenset[int]:
    """Every token id that ends a reply, by the model's word and by the tokenizer's."""
    found = getattr(generation, "eos_token_id", None)
    ids = found if isinstance(found, list) else [found]
    return frozenset(i for i in [*ids, tokenizer.eos_token_id] if i is not None)


def stop_ids(tokenizer: PreTrainedTokenizerBase, stop: Iterable[str]) -> frozenset[int]:
    """The ids of the stop strings that are special tokens, which never appear as text."""
    special = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    # Most ends of turns are added tokens without a name such as eos_token.
    added = tokenizer.added_tokens_decoder.items()
    special |= {token.content: token_id for token_id, token in added if token.special}
    return frozenset(special[text] for text in stop if text in special)
