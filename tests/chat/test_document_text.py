"""Text out of files: what is read, what is refused, and that nothing hostile holds it up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from modules.chat import document_text
from modules.chat.document_reader import MAX_CHARACTERS
from modules.chat.document_text import Extracted, extract_text
from modules.errors import InvalidInputError
from tests.chat import documents

pytestmark = pytest.mark.anyio


async def refused(name: str, data: bytes) -> str:
    with pytest.raises(InvalidInputError) as caught:
        await extract_text(name, data)
    assert caught.value.remedy
    return caught.value.message


# -- text -------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be",
                                      "utf-32"])  # fmt: skip
async def test_text_in_every_unicode_encoding_is_read(encoding: str) -> None:
    data = "Grüße, Hölle & Welt".encode(encoding)
    assert await extract_text("a.txt", data) == Extracted("Grüße, Hölle & Welt")


async def test_text_in_an_old_encoding_is_read_and_says_so() -> None:
    found = await extract_text("a.txt", "naïve café".encode("latin-1"))
    assert found == Extracted("naïve café", "Read as Windows-1252, because it is not UTF-8.")


async def test_damaged_characters_are_replaced_and_counted() -> None:
    found = await extract_text("a.txt", "Grüße".encode() + b"\xc3" + " und Küsse".encode())
    assert found == Extracted("Grüße\ufffd und Küsse", "1 damaged character was replaced.")


async def test_lines_end_as_they_do_everywhere_else() -> None:
    assert (await extract_text("a.csv", b"a,b\r\n1,2\r\n")).text == "a,b\n1,2"


async def test_long_text_is_cut_and_says_so() -> None:
    found = await extract_text("a.log", b"x" * (MAX_CHARACTERS + 1))
    assert len(found.text) == MAX_CHARACTERS
    assert found.note == "The first 400,000 characters."


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is empty"),
        (b" \n ", "has no text"),
        (bytes(range(256)) * 20, "is no text"),
        (b"\x7fELF\x02\x01\x01" + bytes(200), "is no text"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "is a picture"),
        (b"\xff\xd8\xff\xe0" + bytes(99), "is a picture"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "is an old or protected Office file"),
    ],
)
async def test_what_is_no_text_is_refused(data: bytes, why: str) -> None:
    assert await refused("notes.txt", data) == f"notes.txt {why}."


# -- documents --------------------------------------------------------------------------


async def test_the_pages_of_a_pdf_are_read_whatever_it_is_called() -> None:
    data = documents.pdf("Page one", "", "Page three")
    found = await extract_text("report.txt", data)
    assert found == Extracted("Page one\n\nPage three", "1 of 3 pages have no text.")


async def test_a_word_document_is_read_with_its_table() -> None:
    found = await extract_text("letter.docx", documents.word("Dear Ann,", "yours, Bo"))
    assert found.text == "Dear Ann,\nyours, Bo\nleft \tright"


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda: documents.pdf("", ""), "has no text layer: its pages are pictures"),
        (documents.locked_pdf, "is protected by a password"),
        (documents.endless_pdf, "is no PDF that can be read: damaged, or too large"),
        (documents.swollen_pdf, "has no page that can be read"),
        (lambda: b"%PDF-1.7 and nothing", "is no PDF that can be read: damaged, or too large"),
        (documents.bomb, "unpacks to more than a document has"),
        (lambda: documents.bomb(1000), "is no DOCX that can be read: damaged, or too large"),
        (documents.archive, "is an archive, and no Word document"),
        (lambda: b"PK\x03\x04 and nothing", "is no DOCX that can be read: damaged, or too large"),
    ],
    ids=["scan", "locked", "endless", "swollen", "stub", "bomb", "liar", "zip", "stub-zip"],
)
async def test_a_document_without_text_or_with_malice_is_refused(
    made: Callable[[], bytes], why: str
) -> None:
    assert await refused("x", made()) == f"x {why}."


async def test_a_document_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_text, "_SECONDS", 0.01)
    assert "takes longer than" in await refused("x.pdf", documents.pdf("One"))
