"""Pictures from outside: checked, shrunk, and written anew before a browser gets them."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from pathlib import Path

from modules.chat.png_chunks import SIGNATURE, bare
from modules.errors import InvalidInputError, LanternError

__all__ = ["load_picture", "read_picture", "shrunk"]

_MAX_BYTES = 16 * 1024 * 1024
_MAX_PIXELS = 40_000_000
_KEPT_EDGE = 1024
_SHOWN_EDGE = 512
# What Pillow's readers raise over damaged files, beside its own errors (which are OSErrors).
_UNREADABLE = (
    OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, AttributeError,
    OverflowError, MemoryError, struct.error, zlib.error,
)  # fmt: skip


def shrunk(data: bytes, edge: int = _KEPT_EDGE) -> bytes:
    """The PNG, JPEG or WebP picture in `data` as a WebP of at most `edge` pixels a side.

    Only its pixels come through. Raises InvalidInputError for anything else, for more than
    16 MB or 40 million pixels, and for a damaged file.
    """
    from PIL import Image, ImageOps

    if len(data) > _MAX_BYTES:
        raise InvalidInputError("The picture is larger than 16 MB.", "Use a smaller one.")
    if data.startswith(SIGNATURE):
        data = bare(data)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise InvalidInputError(
                    f"The picture has {image.width:,} by {image.height:,} pixels.",
                    f"Use one of at most {_MAX_PIXELS // 1_000_000} million pixels.",
                )
            image.draft("RGB", (edge, edge))
            upright = ImageOps.exif_transpose(image)
            small = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
            small.thumbnail((edge, edge))
            written = io.BytesIO()
            small.save(written, "WEBP", quality=85)
            return written.getvalue()
    except Image.DecompressionBombError as error:
        raise InvalidInputError(
            "The picture has far too many pixels.",
            f"Use one of at most {_MAX_PIXELS // 1_000_000} million pixels.",
        ) from error
    except _UNREADABLE as error:
        raise InvalidInputError(
            "The picture cannot be read.", "Use a PNG, JPEG or WebP file that is whole."
        ) from error


def load_picture(path: Path, edge: int = _KEPT_EDGE) -> bytes:
    """The picture in a file, as `shrunk` makes it. Raises InvalidInputError."""
    try:
        with path.open("rb") as file:
            return shrunk(file.read(_MAX_BYTES + 1), edge)
    except OSError as error:
        raise InvalidInputError(
            f"The picture {path.name} cannot be read: {error.strerror}.", "Make it readable."
        ) from error


def read_picture(path: Path) -> bytes | None:
    """The picture in a file as the page shows it; None where there is none to show."""
    try:
        stat = path.stat()
        return _shown(path, stat.st_mtime_ns, stat.st_size)
    except (OSError, LanternError):
        return None


@functools.lru_cache(maxsize=256)
def _shown(path: Path, changed: int, size: int) -> bytes:
    return load_picture(path, _SHOWN_EDGE)
