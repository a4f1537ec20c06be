"""What a PNG file holds besides its picture, read with bounds and without decoding it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from modules.errors import InvalidInputError

__all__ = ["SIGNATURE", "bare", "texts"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_CHUNKS = 20_000
_MAX_TEXT = 8 * 1024 * 1024
"""Bytes of one text, after it is inflated."""
_PICTURE = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


def texts(data: bytes) -> dict[str, str]:
    """The texts in a PNG file by their keyword: tEXt, zTXt and iTXt.

    Raises InvalidInputError for a file that is damaged, or a text larger than 8 MB.
    """
    found: dict[str, str] = {}
    for kind, body in _chunks(data):
        keyword, zero, rest = body.partition(b"\0")
        if zero and kind in _READERS:
            found[keyword.decode("latin-1")] = _READERS[kind](rest)
    return found


def bare(data: bytes) -> bytes:
    """The file with its picture alone: no text, no colour profile, no further frames."""
    kept = [(kind, body) for kind, body in _chunks(data) if kind in _PICTURE]
    return SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in kept
    )


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and content of each chunk up to the end mark, each checked against its sum."""
    at = len(SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        head = data[at : at + 8]
        if len(head) < 8:
            raise _damaged("it ends in the middle")
        length, kind = struct.unpack(">I4s", head)
        end = at + 8 + length
        if end + 4 > len(data):
            raise _damaged("it ends in the middle")
        body = data[at + 8 : end]
        if zlib.crc32(kind + body) != struct.unpack(">I", data[end : end + 4])[0]:
            raise _damaged("a checksum does not fit")
        yield kind, body
        if kind == b"IEND":
            return
        at = end + 4
    raise _damaged("it has too many parts")


def _plain(rest: bytes) -> str:
    return rest.decode("latin-1")


def _compressed(rest: bytes) -> str:
    return _inflated(rest[1:]).decode("latin-1")


def _international(rest: bytes) -> str:
    flag, body = rest[:1], rest[2:].split(b"\0", 2)[-1]
    return (_inflated(body) if flag == b"\1" else body).decode("utf-8", "replace")


_READERS = {b"tEXt": _plain, b"zTXt": _compressed, b"iTXt": _international}


def _inflated(data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(data, _MAX_TEXT)
    except zlib.error as error:
        raise _damaged("a compressed text cannot be read") from error
    if not inflater.eof:
        if len(text) < _MAX_TEXT:
            raise _damaged("a compressed text ends in the middle")
        raise InvalidInputError(
            "The PNG file has a text of more than 8 MB.", "Use a card with less in it."
        )
    return text


def _damaged(why: str) -> InvalidInputError:
    return InvalidInputError(f"The PNG file is damaged: {why}.", "Get the file again.")
