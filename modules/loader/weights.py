"""Weight files: the header of safetensors, and how a pickle is recognised.

By content throughout, because a suffix proves nothing; and never a tensor is read.
"""

from __future__ import annotations

import json
import math
import pickletools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.errors import NotAModelError, UnsafeModelError

__all__ = ["TensorInfo", "read_safetensors_header", "refuse_pickle"]

_HEADER_LIMIT = 100_000_000  # the limit of the safetensors library itself
_GLOBAL = re.compile(r"[\w.]+ [\w.]+")
_DTYPE_BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor as the header of `file` describes it; `dtype` is "F16", "I32", and so on."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    file: str


def read_safetensors_header(file: Path) -> dict[str, dict[str, Any]]:
    """The tensors of `file` by name, each with its `dtype`, `shape` and `data_offsets`.

    Checked as the format demands (github.com/huggingface/safetensors): the offsets must
    cover the rest of the file without a hole or an overlap. Raises NotAModelError naming
    the file, and UnsafeModelError where it is a pickle under another name.
    """
    try:
        return _parse_header(file)
    except ValueError as error:
        refuse_pickle(file)
        raise NotAModelError(
            f"{file.parent.name}/{file.name} is damaged: {error}.", "Download this file again."
        ) from error


def _parse_header(file: Path) -> dict[str, dict[str, Any]]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 10 or length > min(size - 8, _HEADER_LIMIT):
            raise ValueError("its header is cut off")
        raw = stream.read(length)
    try:
        # Decoded here, because `json` alone would take UTF-16 too, which no other reader does.
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise ValueError("its header is no valid JSON") from error
    if not raw.startswith(b"{") or not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    notes = header.get("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(note, str) for note in notes.values()):
        raise ValueError("its metadata are not plain text")
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    spans = sorted(_span(name, entry) for name, entry in tensors.items())
    end = 0
    for first, last in spans:
        if first != end:
            raise ValueError("its tensors do not lie end to end")
        end = last
    if end != size - 8 - length:
        raise ValueError("it is shorter or longer than its header says")
    return tensors


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        raise ValueError("a name stands there twice")
    return unique


def _span(name: str, entry: Any) -> tuple[int, int]:
    """The first and last byte (exclusive) of a tensor, which must fit its shape and dtype."""
    try:
        (first, last), shape, bits = entry["data_offsets"], entry["shape"], entry["dtype"]
        bits = _DTYPE_BITS[bits]
        numbers = [first, last, *shape]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"its tensor {name[:80]} is not described") from None
    if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise ValueError(f"its tensor {name[:80]} has an impossible shape")
    if (last - first) * 8 != math.prod(shape) * bits:
        raise ValueError(f"its tensor {name[:80]} does not fit its shape")
    return first, last


def refuse_pickle(file: Path) -> None:
    """Raise UnsafeModelError where `file` begins as a pickle does."""
    with file.open("rb") as stream:
        head = stream.read(4096)
    zipped = head.startswith(b"PK\x03\x04")  # what torch.save writes: a pickle in a zip
    pickled = head[:1] == b"\x80" and head[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"}
    if zipped or pickled or _is_plain_pickle(head):
        raise UnsafeModelError(
            f"{file.parent.name}/{file.name} is a pickle, which can run code when it is loaded.",
            "Get the safetensors version of the model, or convert it where you trust it.",
        )


def _is_plain_pickle(head: bytes) -> bool:
    """Protocols 0 and 1 begin without a mark: whether opcodes lead to a global or to the end.

    The opcodes are listed, not executed.
    """
    if head[:1] not in {b"(", b"]", b")", b"}", b"c"}:
        return False
    try:
        for opcode, argument, _ in pickletools.genops(head):
            if opcode.name in {"GLOBAL", "INST"}:
                return _GLOBAL.fullmatch(str(argument)) is not None
    except ValueError:  # no opcode, or cut off in the middle of one
        return False
    return True
