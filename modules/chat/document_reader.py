"""`python -m modules.chat.document_reader KIND`: the text of a document, from stdin to stdout.

A file from outside can be made to take hours and gigabytes to read, so each is read in a
process of its own, under limits of the system. It writes one JSON object: `text` with a
`note`, or a `problem` with its `remedy`. What is damaged ends it with a traceback.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import sys
import zipfile
from collections.abc import Iterator
from typing import Any

__all__ = ["main", "read_docx", "read_pdf"]

MAX_CHARACTERS = 400_000
"""About 100,000 tokens: more than the contexts that people have."""
MAX_PAGES = 1000

_MEMORY = 1024**3
_CPU_S = 20
_MAX_UNPACKED = 256 * 1024**2
_MAX_MEMBERS = 5000
_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_SIGNS = {f"{_WORD}tab": "\t", f"{_WORD}br": "\n", f"{_WORD}cr": "\n", f"{_WORD}noBreakHyphen": "-"}

Answer = dict[str, str]


def main(kind: str) -> int:
    """Read stdin as a `pdf` or a `docx`. Returns the exit status."""
    _limit()
    data = sys.stdin.buffer.read()
    answer = read_pdf(data) if kind == "pdf" else read_docx(data)
    sys.stdout.buffer.write(json.dumps(answer).encode())
    return 0


def read_pdf(data: bytes) -> Answer:
    """The text layer of a PDF, page by page. Raises anything for a damaged one."""
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    reader = PdfReader(io.BytesIO(data))
    if reader.is_encrypted and not _opens(reader):
        return _problem("is protected by a password", "Print it to a new PDF, and attach that.")
    pages = len(reader.pages)
    texts: list[str] = []
    characters = bare = damaged = 0
    for page in itertools.islice(reader.pages, MAX_PAGES):
        try:
            text = page.extract_text().strip()
        except PyPdfError:
            damaged += 1
            text = ""
        bare += not text
        texts.append(text)
        characters += len(text)
        if characters > MAX_CHARACTERS:
            break
    if not characters and damaged:
        return _problem("has no page that can be read", "Print it to a new PDF, and attach that.")
    if not characters:
        return _problem(
            "has no text layer: its pages are pictures",
            "Run it through a program for text recognition (OCR), and attach what that makes.",
        )
    notes = []
    if len(texts) < pages:
        notes.append(f"The first {len(texts):,} of {pages:,} pages.")
    if bare:
        notes.append(f"{bare:,} of {len(texts):,} pages have no text.")
    return {"text": "\n\n".join(filter(None, texts)), "note": " ".join(notes)}


def _opens(reader: Any) -> bool:
    """Whether an encrypted PDF can be read without a password, as many can."""
    from pypdf.errors import DependencyError

    try:
        return bool(reader.decrypt(""))
    except DependencyError:  # AES, which needs a library that Lantern does without
        return False


def read_docx(data: bytes) -> Answer:
    """The text of a Word document, tables row by row. Raises anything for a damaged one."""
    import docx

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        names = {member.filename for member in members}
        # No more is ever unpacked of a member than its head says.
        if len(members) > _MAX_MEMBERS or sum(m.file_size for m in members) > _MAX_UNPACKED:
            return _problem("unpacks to more than a document has", "Attach its text as a file.")
    if "[Content_Types].xml" not in names or not any(n.startswith("word/") for n in names):
        return _problem("is an archive, and no Word document", "Attach what is in it.")
    pieces: list[str] = []
    characters = 0
    for piece in _pieces(docx.Document(io.BytesIO(data)).element.body):
        pieces.append(piece)
        characters += len(piece)
        if characters > MAX_CHARACTERS:
            break
    text = "".join(pieces).strip()
    if not text:
        return _problem("has no text", "Attach another file.")
    return {"text": text, "note": ""}


def _pieces(element: Any, in_cell: bool = False) -> Iterator[str]:
    """The text below `element`, with what was inserted and not what was deleted by a review."""
    for child in element.iterchildren():
        tag = child.tag
        if tag == f"{_WORD}t":
            yield child.text or ""
        elif tag in _SIGNS:
            yield _SIGNS[tag]
        elif tag != _FALLBACK:  # says again what stands beside it
            yield from _pieces(child, in_cell or tag == f"{_WORD}tc")
            if tag == f"{_WORD}p":
                yield " " if in_cell else "\n"
            elif tag == f"{_WORD}tc":
                yield "\t"
            elif tag == f"{_WORD}tr":
                yield "\n"


def _problem(message: str, remedy: str) -> Answer:
    return {"problem": message, "remedy": remedy}


def _limit() -> None:
    """Bound what this process may take, where the system can; its parent bounds the time."""
    try:
        import resource
    except ImportError:  # Windows
        return
    os.nice(10)  # replies come first
    for what, most in (
        (resource.RLIMIT_AS, _MEMORY),
        (resource.RLIMIT_CPU, _CPU_S),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
