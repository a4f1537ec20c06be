"""Characters come in from every kind of file, and damaged ones are answered in a sentence."""

from __future__ import annotations

import io
import json
import random
import time
import zlib

import pytest
from PIL import Image

from modules.chat.character import Character, character_from, fill
from modules.chat.character_card import as_png_card, read_card
from modules.chat.pictures import shrunk
from modules.chat.png_chunks import SIGNATURE
from modules.errors import InvalidInputError, LanternError
from tests.chat.cards import V1, card, chunk, encoded, huge_png, picture, png_card

MIRA = Character(
    "Mira",
    "Hello, {{user}}.",
    "Mira is a cartographer.\nMira's personality: patient\nScenario: {{user}} is lost.",
    "<START>\n{{user}}: Where am I?\n{{char}}: Here.",
)
V2 = {"spec": "chara_card_v2", "data": V1 | {"alternate_greetings": ["Oh."], "tags": ["map"]}}


def test_the_first_tavern_cards() -> None:
    found = read_card(card(V1), "mira.png")
    assert found.character == MIRA
    assert found.picture is not None and found.picture[8:12] == b"WEBP"


def test_the_second_version_and_what_is_left_out_of_it() -> None:
    found = read_card(card(V2), "mira.png")
    assert found.character.greetings == ("Hello, {{user}}.", "Oh.")
    assert found.left_out == ("tags",)


def test_the_third_version_counts_before_the_others() -> None:
    newer = {"spec": "chara_card_v3", "data": V1 | {"name": "Mira 3"}}
    both = png_card(
        chunk(b"tEXt", b"chara\0" + encoded(V1)), chunk(b"tEXt", b"ccv3\0" + encoded(newer))
    )
    assert read_card(both, "mira.png").character.name == "Mira 3"


@pytest.mark.parametrize(
    "text",
    [
        chunk(b"zTXt", b"chara\0\0" + zlib.compress(encoded(V1))),
        chunk(b"iTXt", b"chara\0\0\0\0\0" + encoded(V1)),
        chunk(b"iTXt", b"chara\0\1\0\0\0" + zlib.compress(encoded(V1))),
    ],
)
def test_every_way_of_putting_text_into_a_png(text: bytes) -> None:
    assert read_card(png_card(text), "mira.png").character == MIRA


def test_the_old_pygmalion_json() -> None:
    old = {"char_name": "Mira", "char_persona": "A cartographer.", "char_greeting": "Hello.",
           "world_scenario": "A map room.", "example_dialogue": "{{char}}: Here."}  # fmt: skip
    found = read_card(json.dumps(old).encode(), "mira.json").character
    assert found == Character(
        "Mira",
        "Hello.",
        "Mira's Persona: A cartographer.\nScenario: A map room.",
        "{{char}}: Here.",
    )


def test_our_yaml_and_text_generation_webuis() -> None:
    text = "name: Mira\ngreeting: |-\n  Hello,\n  {{user}}.\ncontext: Maps.\nyour_name: Al\n"
    found = read_card(text.encode(), "mira.yaml")
    assert found.character == Character("Mira", "Hello,\n{{user}}.", "Maps.")
    assert (found.picture, found.left_out) == (None, ("your_name",))


def test_a_character_without_a_name_takes_that_of_its_file() -> None:
    assert read_card(b"context: Maps.", "Old Mira.yaml").character.name == "Old Mira"


def test_an_exported_card_comes_back_as_it_was() -> None:
    mira = Character("Mïra", "Hello.", "Maps.\nMore.", "{{char}}: Here.", ("Oh.", "Ah."))
    for image in (shrunk(picture()), None):
        found = read_card(as_png_card(mira, image), "mira.png")
        assert (found.character, found.left_out) == (mira, ())


def test_placeholders_are_filled_in_one_pass() -> None:
    text = "{{user}} {{Char}} <USER> <BOT> {{original}}| {{random}}"
    assert fill(text, "{{char}}", "Mira") == "{{char}} Mira {{char}} Mira | {{random}}"


def test_the_context_for_a_model_has_names_and_no_marks() -> None:
    assert MIRA.filled_context("Ann").endswith(
        "Scenario: Ann is lost.\nAnn: Where am I?\nMira: Here."
    )


def test_control_characters_and_halves_of_emoji_are_no_text() -> None:
    found, _ = character_from({"name": "Mi\0ra", "context": "a\x1b[0m\ud83eb\r\nc"})
    assert found == Character("Mira", context="a[0m?b\nc")


# -- hostile files ----------------------------------------------------------------------

WHOLE = card(V1)
BAD_SUM = WHOLE[:60] + bytes([WHOLE[60] ^ 1]) + WHOLE[61:]
BOMB = zlib.compress(b"x" * 100_000_000)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "The character has no name."),
        (b"name: [", "not valid YAML"),
        (b"- a\n- b", "no character"),
        (b"name: a\0b", "not valid YAML"),
        (b"\xff\xfe\x00", "not valid YAML"),
        (b"name: {a: b}", "name is no text."),
        (b"name: x\ngreeting: [1]", "greeting is no text."),
        (b"name: x\nalternate_greetings: y", "alternate_greetings is no list"),
        (b"name: " + b"x" * 101, "name is too long"),
        (b"name: x\ncontext: " + b"y" * 70_000, "larger than 64 KB"),
        (b"{" * 100_000, "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"a": "' + b"y" * 5_000_000 + b'"}', "more than 4 MB"),
        (b"\xff\xd8\xff", "picture without a character"),
        (picture(), "picture without a character"),
        (WHOLE[:-30], "ends in the middle"),
        (SIGNATURE + b"\xff\xff\xff\xffIHDR", "ends in the middle"),
        (BAD_SUM, "a checksum does not fit"),
        (png_card(chunk(b"tEXt", b"chara\0???")), "not valid JSON"),
        (png_card(chunk(b"tEXt", b"chara\0abcde")), "not base64"),
        (png_card(chunk(b"zTXt", b"chara\0\0" + BOMB)), "more than 8 MB"),
        (png_card(chunk(b"zTXt", b"chara\0\0" + zlib.compress(encoded(V1))[:-9])), "in the middle"),
        (png_card(chunk(b"iTXt", b"chara\0\1\0\0\0no")), "cannot be read"),
        (card([1]), "describes no character"),
        (card({"name": 7} | V1 | {"first_mes": {}}), "first_mes is no text."),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 17_000_000, "larger than 16 MB"),
    ],
)  # fmt: skip
def test_a_hostile_file_is_one_sentence(data: bytes, told: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        read_card(data, "")
    assert told in str(caught.value) and caught.value.remedy
    assert len(str(caught.value)) < 300


def test_merge_keys_that_double_with_each_level_cost_nothing() -> None:
    lines = ["a0: &a0 {k: v}"]
    lines += [f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 60)]
    with pytest.raises(InvalidInputError, match="not a PNG card, JSON, or valid YAML"):
        read_card("\n".join(lines).encode(), "bomb.yaml")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_pictures_are_written_anew_and_shrunk(form: str) -> None:
    with Image.open(io.BytesIO(shrunk(picture((2000, 1000), form)))) as image:
        assert (image.format, image.size) == ("WEBP", (1024, 512))


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a" + b"\0" * 50, b"<svg/>", picture()[:-30], huge_png()]
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    began = time.monotonic()
    with pytest.raises(InvalidInputError) as caught:
        shrunk(data)
    assert caught.value.remedy and time.monotonic() - began < 30


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_damaged_pictures_are_never_more_than_a_sentence(form: str) -> None:
    dice, whole = random.Random(5), picture((64, 64), form)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(dice.randint(1, 6)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        try:
            shrunk(bytes(data[: dice.randint(len(data) // 2, len(data))]))
        except LanternError as error:
            assert error.remedy
