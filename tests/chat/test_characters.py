"""Characters in two folders: what is read, what is refused, and whose counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modules.chat.cast import Cast, Casting
from modules.chat.character import Character
from modules.chat.characters import Characters, as_yaml, key_of
from modules.chat.pictures import read_picture, shrunk
from modules.chat.profiles import Profile, ProfileStore
from modules.chat.store import ChatStore
from modules.errors import (
    InvalidInputError,
    InvalidNameError,
    NotFoundError,
    SettingsError,
    StorageError,
)
from modules.paths import Paths
from modules.settings import ROOT
from modules.yaml_files import parse_yaml
from tests.chat.cards import V1, huge_png, picture

MIRA = Character("Mira", "Hello.", "Maps.\nMore maps.", "{{char}}: Here.", ("Oh.",))


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """A shipped character Tamsin, and no own ones yet."""
    paths = Paths(tmp_path, tmp_path / "models", tmp_path / "prompts", tmp_path / "user_data")
    paths.user_data.mkdir()
    paths.characters.mkdir()
    (paths.characters / "Tamsin.yaml").write_text("name: Tamsin\ncontext: A lighthouse.")
    (paths.characters / "Tamsin.png").write_bytes(picture())
    return paths


@pytest.fixture
def characters(paths: Paths) -> Characters:
    return Characters(paths)


def keys(characters: Characters) -> list[str]:
    return [one.key for one in characters.all()]


def put(paths: Paths, name: str, content: str | bytes) -> None:
    paths.own_characters.mkdir(exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    (paths.own_characters / name).write_bytes(data)


@pytest.mark.parametrize("path", sorted((ROOT / "characters").glob("*.yaml")))
def test_what_comes_with_lantern_is_whole(path: Path) -> None:
    shipped = Characters(Paths(ROOT, ROOT, ROOT, ROOT / "none"))
    (one,) = [one for one in shipped.all() if one.key == path.stem]
    assert not one.problem and one.line
    assert one.picture is not None and read_picture(one.picture)


def test_one_is_saved_with_its_picture_and_read_back(characters: Characters) -> None:
    characters.save("Mira", MIRA, shrunk(picture()))
    assert characters.find("Mira") == MIRA
    (one,) = [one for one in characters.all() if one.key == "Mira"]
    assert (one.own, one.shipped, one.line, one.problem) == (True, False, "Hello.", "")
    assert one.picture is not None and one.picture.name == "Mira.webp"


def test_its_file_is_what_a_person_would_write(characters: Characters) -> None:
    text = as_yaml(MIRA)
    assert text.startswith("name: Mira\ngreeting: Hello.\ncontext: |-\n  Maps.\n  More maps.\n")
    assert parse_yaml(text.encode(), "x") == MIRA.as_mapping()


def test_own_stands_before_shipped_until_it_is_deleted(characters: Characters) -> None:
    characters.save("Tamsin", MIRA, None)
    assert characters.find("Tamsin") == MIRA and characters.picture("Tamsin") is None
    characters.delete("Tamsin")
    assert characters.find("Tamsin").context == "A lighthouse."
    with pytest.raises(NotFoundError, match="You have no character"):
        characters.delete("Tamsin")


def test_what_is_deleted_comes_back_whole(characters: Characters) -> None:
    characters.save("Mira", MIRA, shrunk(picture()))
    characters.delete("Mira")
    assert keys(characters) == ["Tamsin"]
    characters.restore("Mira")
    assert characters.find("Mira") == MIRA and characters.picture("Mira")


def test_nothing_comes_back_over_another(characters: Characters) -> None:
    characters.save("Mira", MIRA, None)
    characters.delete("Mira")
    characters.save("Mira", Character("Mira", context="Other."), None)
    with pytest.raises(InvalidInputError, match="another character 'Mira'"):
        characters.restore("Mira")
    assert characters.find("Mira").context == "Other."


def test_a_picture_goes_when_one_is_saved_without(paths: Paths, characters: Characters) -> None:
    put(paths, "Mira.json", json.dumps({"name": "Mira"}))
    put(paths, "Mira.jpg", picture(form="JPEG"))
    characters.save("Mira", MIRA, None)
    assert [p.name for p in paths.own_characters.iterdir()] == ["Mira.yaml"]


def test_a_failed_save_leaves_what_was(paths: Paths, characters: Characters) -> None:
    characters.save("Mira", MIRA, None)
    with pytest.raises(InvalidInputError, match="KB of text, and a character holds 64"):
        characters.save("Mira", Character("Mira", context="x" * 70_000), shrunk(picture()))
    assert characters.find("Mira") == MIRA and characters.picture("Mira") is None
    (paths.user_data / "file").write_text("")
    blocked = Characters(Paths(paths.root, paths.root, paths.root, paths.user_data / "file"))
    with pytest.raises(StorageError, match="cannot be written"):
        blocked.save("Mira", MIRA, None)


def test_a_disk_that_fills_up_changes_nothing(
    characters: Characters, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    characters.save("Mira", MIRA, shrunk(picture()))
    before = {p.name: p.read_bytes() for p in paths.own_characters.iterdir()}

    def full(path: Path, content: str | bytes) -> None:
        if isinstance(content, bytes):
            raise OSError(28, "No space left on device")
        path.write_text(content)

    monkeypatch.setattr("modules.chat.characters.write_atomically", full)
    with pytest.raises(StorageError, match="No space left"):
        characters.save("Mira", Character("Other"), shrunk(picture((9, 9))))
    assert {p.name: p.read_bytes() for p in paths.own_characters.iterdir()} == before


def test_an_edit_in_an_editor_is_seen_at_once(paths: Paths, characters: Characters) -> None:
    put(paths, "Mira.yaml", "name: Mira\ncontext: One.")
    assert characters.find("Mira").context == "One."
    put(paths, "Mira.yaml", "name: Mira\ncontext: Another.")
    assert characters.find("Mira").context == "Another."


def test_json_files_of_other_programs_are_read_as_they_are(
    paths: Paths, characters: Characters
) -> None:
    put(paths, "Old.json", json.dumps(V1 | {"avatar": "none"}))
    assert characters.find("Old").name == "Mira"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("nme: Mira", "'nme'. Did you mean name?"),
        ("name: [", "Odd.yaml is not valid YAML at line 1."),
        ("name: {}", "Odd.yaml: name is no text."),
        ("- a", "Odd.yaml is not a list of settings."),
        ("context: " + "x" * 70_000, "larger than 64 KB"),
        (b"name: \0", "not valid YAML"),
        (b"\xff\xff", "not valid YAML"),
    ],
)
def test_a_damaged_file_is_told_and_hides_no_other(
    content: str | bytes, told: str, paths: Paths, characters: Characters
) -> None:
    put(paths, "Odd.yaml", content)
    with pytest.raises(SettingsError):
        characters.find("Odd")
    odd, tamsin = characters.all()
    assert told in odd.problem and not tamsin.problem


@pytest.mark.parametrize("content", [b"", b"no", picture()[:-40], huge_png()])
def test_a_picture_that_cannot_be_shown_is_none(content: bytes, paths: Paths) -> None:
    put(paths, "Mira.png", content)
    assert read_picture(paths.own_characters / "Mira.png") is None


@pytest.mark.parametrize("key", ["../Tamsin", "/etc/passwd", ".deleted", "a/b", "con", "", "x\0y"])
def test_no_name_leads_elsewhere(key: str, characters: Characters) -> None:
    for act in (characters.find, characters.picture, characters.delete, characters.restore):
        with pytest.raises(InvalidNameError):
            act(key)
    with pytest.raises(InvalidNameError):
        characters.save(key, MIRA, None)


def test_links_that_lead_out_are_no_characters(paths: Paths, characters: Characters) -> None:
    (paths.root / "secret.yaml").write_text("name: Secret")
    paths.own_characters.mkdir()
    (paths.own_characters / "Way out.yaml").symlink_to(paths.root / "secret.yaml")
    assert keys(characters) == ["Tamsin"]


@pytest.mark.parametrize(
    ("name", "key"),
    [("Mira", "Mira"), ("../../x", "x"), ("Zoë / 2", "Zoe 2"), ("Мира", "Character"),
     ("'.'", "Character"), ("a" * 100, "a" * 80)],
)  # fmt: skip
def test_every_name_has_a_key(name: str, key: str, characters: Characters) -> None:
    assert key_of(name) == key
    characters.save(key, MIRA, None)


def test_new_ones_never_take_the_place_of_others(characters: Characters) -> None:
    assert characters.free_key("Tamsin") == "Tamsin 2"
    characters.save("Tamsin 2", MIRA, None)
    assert characters.free_key("Tamsin") == "Tamsin 3"


# -- the cast of a chat -----------------------------------------------------------------


@pytest.fixture
def casting(paths: Paths, characters: Characters) -> Casting:
    profiles = ProfileStore(ChatStore(paths.database))
    profiles.save("owner", Profile("Ann", "{{user}} sails."))
    return Casting(characters, profiles)


def test_a_cast_has_names_and_what_the_model_is_told(casting: Casting) -> None:
    assert casting.cast("owner", "chat", "Tamsin") == Cast(
        "chat", "Ann", "Tamsin", "A lighthouse.\n\nAnn sails.", "Tamsin"
    )


def test_without_a_character_instruct_tells_nothing_of_the_user(casting: Casting) -> None:
    assert casting.cast("owner", "instruct", "") == Cast("instruct", "Ann")
    assert casting.cast("owner", "chat", "").context == "Ann sails."


def test_a_character_that_is_gone_keeps_its_name(casting: Casting) -> None:
    assert casting.cast("guest-1", "chat", "Nobody") == Cast("chat", "You", "Nobody")


def test_profiles_are_apart_and_kept(paths: Paths) -> None:
    store = ChatStore(paths.database)
    ProfileStore(store).save("guest-1", Profile(" Bo\nB ", "x", b"webp"))
    store.close()
    profiles = ProfileStore(ChatStore(paths.database))
    assert profiles.of("guest-1") == Profile("Bo B", "x", b"webp")
    assert profiles.of("owner") == Profile()


@pytest.mark.parametrize("profile", [Profile("x" * 101), Profile("x", "y" * 20_001)])
def test_long_profiles_are_refused(profile: Profile, paths: Paths) -> None:
    with pytest.raises(InvalidInputError, match="is too long"):
        ProfileStore(ChatStore(paths.database)).save("owner", profile)
