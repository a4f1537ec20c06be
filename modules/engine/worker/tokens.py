"""From text to token ids, the same way for a request and for a count."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from modules.errors import InvalidInputError

__all__ = ["decode", "encode", "end_ids", "input_ids", "pieces", "stop_ids", "text_after"]

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


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
    text = _encodable(text)
    ids: list[int] = list(tokenizer(text, add_special_tokens=special_tokens)["input_ids"])
    return ids[_wanted(tokenizer, text, ids)] if special_tokens else ids


def decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """The text of `ids`. Raises InvalidInputError for one that the tokenizer does not have."""
    for token_id in ids:
        if not 0 <= token_id < len(tokenizer):
            raise InvalidInputError(
                f"The model has no token {token_id}.",
                f"Send ids from 0 to {len(tokenizer) - 1:,}.",
                field="tokens",
            )
    return _decoded(tokenizer, ids)


def _encodable(text: str) -> str:
    """A lone surrogate (half of a broken emoji) has no UTF-8 form; tokenizers refuse it."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _wanted(tokenizer: PreTrainedTokenizerBase, text: str, ids: list[int]) -> slice:
    """Which of `ids` a model should get: no second BOS, and no end that the text has not."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    begin, end = 0, len(ids)
    if bos is not None and ids[:2] == [bos, bos]:
        begin = 1
    if eos is not None and eos != bos and ids[-1:] == [eos]:
        end -= not text.endswith(str(tokenizer.eos_token))
    return slice(begin, end)


def pieces(
    tokenizer: PreTrainedTokenizerBase, text: str, special_tokens: bool
) -> list[tuple[int, str]]:
    """The token ids of `text`, as `encode` has them, each with the part of the text it stands for.

    What a tokenizer drops belongs to the token after it. Of a character in several tokens the
    last has all. A tokenizer that does not know places shows each token by itself.
    """
    text = _encodable(text)
    if not tokenizer.is_fast:
        return [(i, _decoded(tokenizer, [i])) for i in encode(tokenizer, text, special_tokens)]
    made = tokenizer(text, add_special_tokens=special_tokens, return_offsets_mapping=True)
    ids, spans = list(made["input_ids"]), list(made["offset_mapping"])
    kept = _wanted(tokenizer, text, ids) if special_tokens else slice(None)
    ids, spans = ids[kept], spans[kept]
    found, done = [], 0
    for place, (token_id, (begin, end)) in enumerate(zip(ids, spans, strict=True)):
        if begin == end:  # the tokenizer's own, which the text has not
            found.append((token_id, _decoded(tokenizer, [token_id])))
            continue
        following = spans[place + 1][0] if place + 1 < len(spans) else end
        # The next one begins within this one where they share a character.
        end = max(done, following if begin <= following < end else end)
        found.append((token_id, text[done:end]))
        done = end
    return found


def text_after(tokenizer: PreTrainedTokenizerBase, before: list[int], token_id: int) -> str:
    """The text that a token adds after the tokens `before`, of which a few are enough.

    A part of a character is shown by its bytes, such as \\xe2\\x80.
    """
    context = _decoded(tokenizer, before).rstrip(_REPLACEMENT)
    text = _decoded(tokenizer, [*before, token_id])
    added = text[len(context) :] if text.startswith(context) else _decoded(tokenizer, [token_id])
    if added and _REPLACEMENT not in added:
        return added
    raw = str(tokenizer.convert_ids_to_tokens(token_id) or "")
    return raw if raw.startswith("<0x") else _bytes_of(raw) or raw


def _bytes_of(raw: str) -> str:
    """What a token of a byte-level vocabulary stands for, written out; "" if it is none."""
    # Bytes that are no visible character are written as the characters from 256 on, in order.
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in visible]
    values = {chr(byte): byte for byte in visible}
    values |= {chr(256 + place): byte for place, byte in enumerate(hidden)}
    if not all(character in values for character in raw):
        return ""
    return "".join(f"\\x{values[character]:02x}" for character in raw)


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


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
