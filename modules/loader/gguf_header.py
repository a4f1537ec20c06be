"""The header of a GGUF file: what it says about the model, and the tensors it holds.

Read here and not by the `gguf` package, which takes seconds for a large vocabulary and
trusts the numbers in the file. Format: github.com/ggml-org/ggml, docs/gguf.md.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from modules.errors import NotAModelError
from modules.loader.weights import TensorInfo, refuse_pickle

__all__ = ["GgufHeader", "read_gguf_header"]

# Twice what a vocabulary of 262,144 words with 514,000 merges takes.
_HEADER_LIMIT = 32 * 2**20
_MOST_KEYS, _MOST_TENSORS, _MOST_TEXT = 4096, 2**17, 2**20
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9
# Type: name, weights in a block, bytes in a block.
_TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """`values` are the metadata that are one number or text, `lengths` those of its arrays."""

    values: Mapping[str, int | float | str]
    lengths: Mapping[str, int]
    tensors: Mapping[str, TensorInfo]


def read_gguf_header(file: Path) -> GgufHeader:
    """The header of `file`, without its tensors; shapes are (rows, columns) as torch has them.

    Raises NotAModelError naming the file where it is damaged or cut off, and
    UnsafeModelError where it is a pickle under another name.
    """
    try:
        with file.open("rb") as stream:
            return _Reader(stream, file).header()
    except ValueError as error:
        refuse_pickle(file)
        raise NotAModelError(
            f"{file.parent.name}/{file.name} is damaged: {error}.", "Download this file again."
        ) from error


class _Reader:
    """Reads on from where it is. What does not fit raises ValueError, which says what."""

    def __init__(self, stream: BinaryIO, file: Path) -> None:
        self._stream = stream
        self._file = file
        self._size = file.stat().st_size
        self._left = min(self._size, _HEADER_LIMIT)

    def header(self) -> GgufHeader:
        if self._bytes(4) != b"GGUF":
            raise ValueError("it does not begin as GGUF does")
        if self._u32() not in (2, 3):
            raise ValueError("its version of GGUF is unknown")
        tensor_count = self._count(_MOST_TENSORS)
        values: dict[str, int | float | str] = {}
        lengths: dict[str, int] = {}
        for _ in range(self._count(_MOST_KEYS)):
            key, kind = self._text(), self._u32()
            if kind == _ARRAY:
                lengths[key] = self._skip_array()
            else:
                values[key] = self._text() if kind == _STRING else self._scalar(kind)
        entries = [self._tensor() for _ in range(tensor_count)]
        self._check_extent(entries, values.get("general.alignment", 32))
        tensors = {name: info for name, info, _ in entries}
        if len(tensors) < tensor_count:
            raise ValueError("a tensor stands there twice")
        return GgufHeader(values, lengths, tensors)

    def _tensor(self) -> tuple[str, TensorInfo, int]:
        """Name, description, and where its bytes begin after the header."""
        name, dimensions = self._text(), self._u32()
        if not 1 <= dimensions <= 4:
            raise ValueError(f"its tensor {name[:80]} has an impossible shape")
        shape = tuple(self._u64() for _ in range(dimensions))[::-1]
        kind, offset = self._u32(), self._u64()
        if kind not in _TYPES:
            raise ValueError(f"its tensor {name[:80]} is of an unknown type")
        dtype, block, size = _TYPES[kind]
        weights = math.prod(shape)
        if not 0 < weights < 2**63 or shape[-1] % block:
            raise ValueError(f"its tensor {name[:80]} has an impossible shape")
        return name, TensorInfo(dtype, shape, weights // block * size, self._file.name), offset

    def _check_extent(
        self, entries: list[tuple[str, TensorInfo, int]], alignment: int | float | str
    ) -> None:
        if not isinstance(alignment, int) or not 1 <= alignment <= 2**20:
            raise ValueError("its alignment is impossible")
        begin = -(-self._stream.tell() // alignment) * alignment
        end = 0  # tensors lie in any order, but never one within another
        for name, info, offset in sorted(entries, key=lambda entry: entry[2]):
            if offset < end:
                raise ValueError(f"its tensor {name[:80]} overlaps with another")
            end = offset + info.nbytes
        if begin + end > self._size:
            raise ValueError("it is shorter than its header says")

    def _skip_array(self) -> int:
        kind, count = self._u32(), self._u64()
        if kind == _STRING:
            self._skip_texts(count)
        else:
            self._skip(count * struct.calcsize(_code(kind)))
        return count

    def _skip_texts(self, count: int) -> None:
        """Hundreds of thousands of them, so that nothing is called that need not be."""
        read, seek = self._stream.read, self._stream.seek
        for _ in range(count):
            length = int.from_bytes(read(8), "little")
            self._left -= 8 + length
            if self._left < 0:  # where the limit ends, whatever `count` claims
                raise ValueError("its header is cut off")
            seek(length, 1)

    def _count(self, most: int) -> int:
        count = self._u64()
        if count > most:
            raise ValueError("its header counts more entries than there can be")
        return count

    def _text(self) -> str:
        length = self._u64()
        if length > _MOST_TEXT:
            raise ValueError("a text in its header is too long")
        return self._bytes(length).decode("utf-8", "replace")

    def _scalar(self, kind: int) -> int | float:
        code = "<" + _code(kind)
        number: int | float = struct.unpack(code, self._bytes(struct.calcsize(code)))[0]
        return number

    def _u32(self) -> int:
        return int.from_bytes(self._bytes(4), "little")

    def _u64(self) -> int:
        return int.from_bytes(self._bytes(8), "little")

    def _bytes(self, count: int) -> bytes:
        self._take(count)
        return self._stream.read(count)

    def _skip(self, count: int) -> None:
        self._take(count)
        self._stream.seek(count, 1)

    def _take(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise ValueError("its header is cut off")


def _code(kind: int) -> str:
    if kind not in _SCALARS:
        raise ValueError("its header holds a value of an unknown type")
    return _SCALARS[kind]
