"""Tokens as a vocabulary writes them, turned back into text."""

from __future__ import annotations

import functools
import re
from codecs import getincrementaldecoder
from collections.abc import Mapping, Sequence

__all__ = ["texts_of"]

_BYTE = re.compile("<0x([0-9A-F]{2})>")


def texts_of(pieces: Sequence[str]) -> list[str]:
    """The text of each token; a character in several tokens is in the last of them.

    A vocabulary writes a space as "Ġ" and bytes as letters (GPT-2's alphabet), or as "▁" and
    bytes as <0x0A> (SentencePiece). A token of neither kind stands for itself.
    """
    decoder = getincrementaldecoder("utf-8")("replace")
    alphabet = _alphabet() if any("Ġ" in piece or "Ċ" in piece for piece in pieces) else {}
    texts = []
    for piece in pieces:
        if alphabet and all(letter in alphabet for letter in piece):
            texts.append(decoder.decode(bytes(alphabet[letter] for letter in piece)))
        elif byte := _BYTE.fullmatch(piece):
            texts.append(decoder.decode(bytes([int(byte[1], 16)])))
        else:
            texts.append(piece.replace("▁", " "))
    return texts


@functools.cache
def _alphabet() -> Mapping[str, int]:
    """The byte that each letter stands for, as github.com/openai/gpt-2/blob/master/src/encoder.py
    has it: bytes that print stand for themselves, and the others for letters from U+0100 on."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    found = {chr(byte): byte for byte in printing}
    return found | {chr(0x100 + place): byte for place, byte in enumerate(others)}
