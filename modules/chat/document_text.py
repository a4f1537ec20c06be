"""From a file that somebody attached to the text that a model can read.

What a file is, its first bytes say and not its name. PDF and DOCX are read in a process of
their own, under limits (`document_reader`); text is decoded here.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.chat.document_reader import MAX_CHARACTERS
from modules.errors import InvalidInputError

__all__ = ["MAX_FILE_BYTES", "Extracted", "decode", "extract_text"]

MAX_FILE_BYTES = 32 * 1024**2

_ROOT = Path(__file__).resolve().parents[2]
_SECONDS = 30.0
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_PICTURE = re.compile(
    rb"\x89PNG|\xff\xd8\xff|GIF8|BM.{4}\0\0\0\0|II\*\0|MM\0\*|RIFF.{4}WEBP|.{4}ftyp(?:heic|avif|mif1)",
    re.DOTALL,
)
_OLD_OFFICE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_KINDS = "Attach text, PDF or DOCX."


@dataclass(frozen=True, slots=True)
class Extracted:
    """The text of a file. `note` says in a sentence or two what is missing of it."""

    text: str
    note: str = ""


async def extract_text(name: str, data: bytes) -> Extracted:
    """The text of the file `name`. Raises InvalidInputError, saying why there is none."""
    if not data:
        raise _refused(name, "is empty", "Attach another file.")
    if b"%PDF-" in data[:1024]:
        found = await _read_document(name, "pdf", data)
    elif data.startswith(b"PK\x03\x04"):
        found = await _read_document(name, "docx", data)
    elif _PICTURE.match(data):
        raise _refused(name, "is a picture", "The models here read text alone; describe it.")
    elif data.startswith(_OLD_OFFICE):
        raise _refused(
            name, "is an old or protected Office file", "Save it as DOCX without a password."
        )
    else:
        found = await asyncio.to_thread(decode, name, data)
    return _cut(found)


def decode(name: str, data: bytes) -> Extracted:
    """Text in UTF-8, UTF-16, UTF-32 or Windows-1252. Raises InvalidInputError for no text."""
    text, note = _decoded(data)
    start = text[:100_000]
    if len(_CONTROL.findall(start)) > len(start) / 100:
        raise _refused(name, "is no text", _KINDS)
    if not text.strip():
        raise _refused(name, "has no text", "Attach another file.")
    return Extracted(text.replace("\r\n", "\n").strip("\n"), note)


def _decoded(data: bytes) -> tuple[str, str]:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace"), ""
    # In UTF-16, most of what is written has a zero in every other byte.
    start = data[:4000]
    for place, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        if start[place::2].count(0) > len(start) / 4 and not start[1 - place :: 2].count(0):
            return data.decode(encoding, "replace"), ""
    text = data.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    if not broken:
        return text, ""
    if broken < sum(len(run) for run in re.findall(r"[^\x00-\x7f\ufffd]+", text)):
        note = "1 damaged character was" if broken == 1 else f"{broken:,} damaged characters were"
        return text, f"{note} replaced."
    return data.decode("cp1252", "replace"), "Read as Windows-1252, because it is not UTF-8."


async def _read_document(name: str, kind: str, data: bytes) -> Extracted:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "modules.chat.document_reader", kind,
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        output, _ = await asyncio.wait_for(process.communicate(data), _SECONDS)
    except TimeoutError:
        raise _refused(
            name, f"takes longer than {_SECONDS:.0f} seconds to read", "Attach its text."
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise _refused(
            name, f"is no {kind.upper()} that can be read: damaged, or too large",
            "Open it in its own program, and save it anew.",
        )  # fmt: skip
    answer: dict[str, Any] = json.loads(output)
    if "problem" in answer:
        raise _refused(name, answer["problem"], answer["remedy"])
    return Extracted(answer["text"], answer["note"])


def _cut(found: Extracted) -> Extracted:
    if len(found.text) <= MAX_CHARACTERS:
        return found
    note = f"{found.note} The first {MAX_CHARACTERS:,} characters.".strip()
    return Extracted(found.text[:MAX_CHARACTERS], note)


def _refused(name: str, why: str, remedy: str) -> InvalidInputError:
    return InvalidInputError(f"{name} {why}.", remedy, field="file")
