"""Character cards for tests, whole and damaged."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from typing import Any

from PIL import Image

from modules.chat.png_chunks import SIGNATURE

V1 = {
    "name": "Mira", "description": "Mira is a cartographer.", "personality": "patient",
    "scenario": "{{user}} is lost.", "first_mes": "Hello, {{user}}.",
    "mes_example": "<START>\n{{user}}: Where am I?\n{{char}}: Here.",
}  # fmt: skip


def picture(size: tuple[int, int] = (40, 60), form: str = "PNG") -> bytes:
    """A picture of one colour."""
    written = io.BytesIO()
    Image.new("RGB", size, "#a06020").save(written, form)
    return written.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG chunk with its sum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def encoded(data: Any) -> bytes:
    """What a card holds under its keyword."""
    return base64.b64encode(json.dumps(data).encode())


def png_card(*texts: bytes, size: tuple[int, int] = (40, 60)) -> bytes:
    """A PNG file with these chunks before its end."""
    whole = picture(size)
    return whole[:-12] + b"".join(texts) + whole[-12:]


def card(data: Any, keyword: bytes = b"chara") -> bytes:
    """A PNG card as TavernAI writes it."""
    return png_card(chunk(b"tEXt", keyword + b"\0" + encoded(data)))


def huge_png() -> bytes:
    """A PNG of a few bytes that says it has 50,000 by 50,000 pixels."""
    head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
