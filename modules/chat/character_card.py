"""Character cards: files that characters travel in, read with bounds, and PNG cards written."""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from modules.chat.character import Character, character_from
from modules.chat.pictures import shrunk
from modules.chat.png_chunks import SIGNATURE, texts
from modules.errors import InvalidInputError, SettingsError
from modules.yaml_files import MAX_YAML_BYTES, parse_yaml

__all__ = ["MAX_CARD_BYTES", "Card", "as_png_card", "read_card", "read_json"]

MAX_CARD_BYTES = 16 * 1024 * 1024
_MAX_JSON = 4 * 1024 * 1024
_KEYWORDS = ("ccv3", "chara")
_PLAIN_SIZE, _PLAIN_COLOUR = (400, 600), "#4a4336"


@dataclass(frozen=True, slots=True)
class Card:
    """What a file brought: a character, its picture as a WebP, and what was left out."""

    character: Character
    picture: bytes | None
    left_out: tuple[str, ...]


def read_card(data: bytes, filename: str) -> Card:
    """The character in a PNG card, a JSON or a YAML file, told apart by what is in it.

    Raises InvalidInputError, or SettingsError for broken YAML.
    """
    name = filename[:100] or "The file"
    if len(data) > MAX_CARD_BYTES:
        raise InvalidInputError(f"{name} is larger than 16 MB.", "Use a smaller card.")
    stem = PurePath(filename).stem[:100]
    if data.startswith(SIGNATURE):
        character, unused = character_from(_embedded(data, name), stem)
        return Card(character, shrunk(data), unused)
    if data.startswith((b"\xff\xd8", b"RIFF")):
        raise InvalidInputError(
            f"{name} is a picture without a character in it.",
            "Use a PNG card, or make a new character and give it this picture.",
        )
    if data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        entries = read_json(data, name)
    elif len(data) > MAX_YAML_BYTES:
        raise InvalidInputError(f"{name} is larger than 64 KB.", "Shorten its texts.")
    else:
        entries = _yaml(data, name)
    character, unused = character_from(entries, stem)
    return Card(character, None, unused)


def _yaml(data: bytes, name: str) -> dict[str, Any]:
    try:
        return parse_yaml(data, name)
    except SettingsError as error:
        raise InvalidInputError(
            f"{name} is no character: it is not a PNG card, JSON, or valid YAML.",
            f"YAML: {error.message}",
        ) from error


def read_json(data: bytes, name: str) -> Mapping[str, Any]:
    """The object in a JSON file of at most 4 MB. Raises InvalidInputError."""
    if len(data) > _MAX_JSON:
        raise InvalidInputError(f"{name} has more than 4 MB of text.", "Use a smaller card.")
    try:
        found = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{name} is not valid JSON.", "Get the file again.") from error
    if not isinstance(found, dict):
        raise InvalidInputError(f"{name} describes no character.", "Use another file.")
    return found


def _embedded(data: bytes, name: str) -> Mapping[str, Any]:
    found = texts(data)
    text = next((found[key] for key in _KEYWORDS if key in found), None)
    if text is None:
        raise InvalidInputError(
            f"{name} is a picture without a character in it.",
            "Use a PNG card, or make a new character and give it this picture.",
        )
    try:
        return read_json(base64.b64decode(text), name)
    except (binascii.Error, ValueError) as error:
        raise InvalidInputError(
            f"The character in {name} is damaged: it is not base64.", "Get the file again."
        ) from error


def as_png_card(character: Character, picture: bytes | None) -> bytes:
    """A card that others read: the picture as a PNG, with the character as V2 JSON in it."""
    from PIL import Image, PngImagePlugin

    data = {
        "name": character.name, "description": character.context, "personality": "",
        "scenario": "", "first_mes": character.greeting,
        "mes_example": character.example_dialogue, "creator_notes": "", "system_prompt": "",
        "post_history_instructions": "", "alternate_greetings": character.alternate_greetings,
        "tags": [], "creator": "", "character_version": "", "extensions": {},
    }  # fmt: skip
    card = {"spec": "chara_card_v2", "spec_version": "2.0", "data": data}
    about = PngImagePlugin.PngInfo()
    about.add_text("chara", base64.b64encode(json.dumps(card).encode()).decode())
    if picture is None:
        image = Image.new("RGB", _PLAIN_SIZE, _PLAIN_COLOUR)
    else:
        image = Image.open(io.BytesIO(picture), formats=("WEBP",)).convert("RGBA")
    written = io.BytesIO()
    image.save(written, "PNG", pnginfo=about)
    return written.getvalue()
