"""Documents that are made in memory, whole and hostile."""

from __future__ import annotations

import io
import zipfile
import zlib

import docx
from pypdf import PdfReader, PdfWriter


def pdf(*pages: str, compressed: bytes = b"") -> bytes:
    """A PDF with a line of text on each page; `compressed` replaces all their contents."""
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Count {len(pages)} /Kids [{kids}] >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, text in enumerate(pages):
        stream = compressed or (f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode() if text else b"")
        filtered = b" /Filter /FlateDecode" if compressed else b""
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R"
            b" /Resources << /Font << /F1 3 0 R >> >> >>" % (5 + 2 * i)
        )
        objects.append(
            b"<< /Length %d%s >>\nstream\n%s\nendstream" % (len(stream), filtered, stream)
        )
    return assembled(objects)


def assembled(objects: list[bytes]) -> bytes:
    """A PDF file of `objects`, the first of which is its catalogue."""
    out = bytearray(b"%PDF-1.7\n")
    places = []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    out += b"trailer << /Size %d /Root 1 0 R >>\n" % (len(objects) + 1)
    return bytes(out + b"startxref\n%d\n%%%%EOF" % table)


def endless_pdf() -> bytes:
    """A PDF whose page tree holds itself."""
    return assembled(
        [b"<< /Type /Catalog /Pages 2 0 R >>",
         b"<< /Type /Pages /Count 9 /Kids [2 0 R 2 0 R] /Parent 2 0 R >>"]
    )  # fmt: skip


def swollen_pdf() -> bytes:
    """A PDF of 0.6 MB whose page is 300 MB of drawing commands."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(b"0 0 m 1 1 l S\n" * 75_000) for _ in range(300))
    return pdf("one", compressed=packed + packer.flush())


def locked_pdf() -> bytes:
    """A PDF that asks for a password."""
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf("A secret."))))
    writer.encrypt("a-password", algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def word(*paragraphs: str) -> bytes:
    """A DOCX with a table at its end."""
    document = docx.Document()
    for text in paragraphs:
        document.add_paragraph(text)
    cells = document.add_table(1, 2).rows[0].cells
    cells[0].text, cells[1].text = "left", "right"
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def bomb(declared: int | None = None) -> bytes:
    """A small DOCX whose text unpacks to 300 MB, or says that it is `declared` bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        with zipfile.ZipFile(io.BytesIO(word("x"))) as whole:
            for name in whole.namelist():
                if name != "word/document.xml":
                    archive.writestr(name, whole.read(name))
        with archive.open("word/document.xml", "w", force_zip64=True) as member:
            for _ in range(300):
                member.write(b" " * 1024**2)
    data = out.getvalue()
    if declared is not None:
        info = zipfile.ZipFile(io.BytesIO(data)).getinfo("word/document.xml")
        data = data.replace(info.file_size.to_bytes(8, "little"), declared.to_bytes(8, "little"))
        data = data.replace(info.file_size.to_bytes(4, "little"), declared.to_bytes(4, "little"))
    return data


def archive() -> bytes:
    """A ZIP that is no document."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as zipped:
        zipped.writestr("data.csv", "a,b\n")
    return out.getvalue()
