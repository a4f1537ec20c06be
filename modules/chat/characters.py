"""`Characters`: the files in `characters/`, and those of the user in `user_data/characters/`.

A character is a YAML file in text-generation-webui's form (or a JSON file), and perhaps a
picture of the same name beside it. Lantern's own are never written to. Where both folders
have a name, the user's counts, and deleting it brings the shipped one back. What is deleted
lies in `.deleted/` beside the others until something else of its name is.
"""

from __future__ import annotations

import contextlib
import functools
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modules.chat.character import KEYS, Character, character_from, fill
from modules.chat.character_card import read_json
from modules.errors import (
    InvalidInputError,
    InvalidNameError,
    LanternError,
    NotFoundError,
    SettingsError,
    StorageError,
)
from modules.paths import Paths, safe_child, write_atomically
from modules.wording import nearest
from modules.yaml_files import MAX_YAML_BYTES, read_yaml

__all__ = ["CharacterFile", "Characters", "as_yaml", "key_of"]

_TEXTS = (".yaml", ".yml", ".json")
_PICTURES = (".webp", ".png", ".jpg", ".jpeg")
_MAX_LISTED = 1000
_LINE_CHARS = 160


@dataclass(frozen=True, slots=True)
class CharacterFile:
    """A character that can be chosen. `key` is its file's name, without the ending.

    `own`: whether it is the user's; `shipped`: whether one of this name comes with Lantern.
    `problem` says why the file cannot be used.
    """

    key: str
    own: bool
    shipped: bool
    name: str
    line: str = ""
    picture: Path | None = None
    problem: str = ""


class Characters:
    """The characters of one installation. Its methods read and write small files."""

    def __init__(self, paths: Paths) -> None:
        self._own, self._shipped = paths.own_characters, paths.characters

    def all(self) -> list[CharacterFile]:
        """Every character, by name; a file that cannot be used says why."""
        own, shipped = _keys(self._own), _keys(self._shipped)
        keys = sorted(own | shipped, key=str.lower)[:_MAX_LISTED]
        return [self._described(key, key in own, key in shipped) for key in keys]

    def find(self, key: str) -> Character:
        """One character.

        Raises NotFoundError, InvalidNameError, or SettingsError that names the file and key.
        """
        path = self._file(key)
        if path is None:
            raise NotFoundError(f"There is no character {key!r}.", "Choose another one.")
        try:
            stat = path.stat()
        except OSError as error:
            raise NotFoundError(f"{path.name} cannot be read.", "Make it readable.") from error
        return _parsed(path, stat.st_mtime_ns, stat.st_size)

    def picture(self, key: str) -> Path | None:
        """The picture beside a character's file. Raises InvalidNameError."""
        path = self._file(key)
        return None if path is None else _first(path.parent, key, _PICTURES)

    def has(self, key: str) -> bool:
        """Whether there is a character `key`, whosesoever. Raises InvalidNameError."""
        return self._file(key) is not None

    def free_key(self, name: str) -> str:
        """A file name for a new character called `name`, which nothing has."""
        key = key_of(name)
        for number in range(1, _MAX_LISTED + 2):
            tried = key if number == 1 else f"{key} {number}"
            if not self.has(tried):
                return tried
        raise InvalidInputError("There are too many characters of this name.", "Delete some.")

    def save(self, key: str, character: Character, picture: bytes | None) -> None:
        """Keep a character as the user's, over an earlier one; `picture` is a WebP.

        Raises InvalidNameError, InvalidInputError for more than 64 KB, or StorageError.
        """
        text = as_yaml(character)
        path = safe_child(self._own, f"{key}.yaml")
        staged = path.with_name(f".{path.name}")
        before = list(_files_of(self._own, key))
        try:
            self._own.mkdir(parents=True, exist_ok=True)
            image = self._own / f"{key}.webp"
            write_atomically(staged, text)  # so that a full disk is met before anything changes
            if picture is not None:
                write_atomically(image, picture)
            staged.replace(path)
            for old in before:
                if old not in (path, image) or (old == image and picture is None):
                    old.unlink(missing_ok=True)
        except OSError as error:
            with contextlib.suppress(OSError):
                staged.unlink()
            raise _unwritable(error, self._own) from error

    def delete(self, key: str) -> None:
        """Put the user's character `key` aside; a shipped one stays.

        Raises NotFoundError, InvalidNameError or StorageError.
        """
        files = list(_files_of(self._own, key))
        if not any(path.suffix in _TEXTS for path in files):
            raise NotFoundError(
                f"You have no character {key!r}.", "Those that come with Lantern stay."
            )
        aside = self._own / ".deleted"
        try:
            aside.mkdir(exist_ok=True)
            for old in list(_files_of(aside, key)):
                old.unlink()
            for path in files:
                path.replace(aside / path.name)
        except OSError as error:
            raise _unwritable(error, self._own) from error

    def restore(self, key: str) -> None:
        """Bring back what was deleted last under this name.

        Raises NotFoundError, InvalidInputError where the name was taken since, or StorageError.
        """
        files = list(_files_of(self._own / ".deleted", key))
        if not files:
            raise NotFoundError(f"No character {key!r} was deleted.", "Import it again.")
        if _first(self._own, key, _TEXTS):
            raise InvalidInputError(
                f"There is another character {key!r} by now.", "Delete or rename that one first."
            )
        try:
            for path in files:
                path.replace(self._own / path.name)
        except OSError as error:
            raise _unwritable(error, self._own) from error

    def _file(self, key: str) -> Path | None:
        return _first(self._own, key, _TEXTS) or _first(self._shipped, key, _TEXTS)

    def _described(self, key: str, own: bool, shipped: bool) -> CharacterFile:
        try:
            character = self.find(key)
        except LanternError as error:
            return CharacterFile(key, own, shipped, key, problem=str(error))
        text = fill(character.greeting or character.context, "you", character.name)
        line = " ".join(text.replace("*", "").split())
        if len(line) > _LINE_CHARS:
            line = line[:_LINE_CHARS].rsplit(" ", 1)[0] + "…"
        return CharacterFile(key, own, shipped, character.name, line, self.picture(key))


def key_of(name: str) -> str:
    """A file name near to what a character is called."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    kept = re.sub(r"[^\w .()'-]+", " ", plain).strip(" .-_'()")
    return " ".join(kept.split())[:80].strip(" .") or "Character"


def as_yaml(character: Character) -> str:
    """A character's file. Raises InvalidInputError for one that is larger than 64 KB."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Texts of several lines as blocks, as people write them."""

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    written: str = yaml.dump(
        character.as_mapping(), Dumper=Dumper, allow_unicode=True, sort_keys=False, width=1000
    )
    if len(written.encode()) > MAX_YAML_BYTES:
        raise InvalidInputError(
            f"{character.name} has {len(written.encode()) // 1024:,} KB of text, and a character "
            "holds 64.",
            "Shorten the context or the greetings.",
        )
    return written


@functools.lru_cache(maxsize=1024)
def _parsed(path: Path, changed: int, size: int) -> Character:
    """The character in a file that has changed at this time, and has this size."""
    try:
        if path.suffix == ".json":  # which other programs write, with keys of their own
            return character_from(read_json(path.read_bytes(), path.name), path.stem)[0]
        entries = read_yaml(path)
        unknown = next((key for key in entries if key not in KEYS), None)
        if unknown is not None:
            raise SettingsError(
                f"The character {path.name} has an unknown key {str(unknown)[:60]!r}.",
                nearest(str(unknown), sorted(KEYS)) or "Remove the line.",
            )
        return character_from(entries, path.stem)[0]
    except InvalidInputError as error:
        raise SettingsError(f"The character {path.name}: {error.message}", error.remedy) from error
    except OSError as error:
        raise SettingsError(
            f"{path.name} cannot be read: {error.strerror}.", "Make the file readable."
        ) from error


def _keys(folder: Path) -> set[str]:
    """The names that `safe_child` takes; hidden files are none."""
    found = set()
    for path in folder.glob("*"):
        if path.suffix in _TEXTS:
            try:
                if safe_child(folder, path.name).is_file():
                    found.add(path.stem)
            except InvalidNameError:
                continue
    return found


def _files_of(folder: Path, key: str) -> Iterator[Path]:
    for suffix in (*_TEXTS, *_PICTURES):
        path = safe_child(folder, key + suffix)
        if path.is_file():
            yield path


def _first(folder: Path, key: str, suffixes: tuple[str, ...]) -> Path | None:
    paths = (safe_child(folder, key + suffix) for suffix in suffixes)
    return next((path for path in paths if path.is_file()), None)


def _unwritable(error: OSError, folder: Path) -> StorageError:
    return StorageError(
        f"The character cannot be written: {error.strerror}.", f"Make {folder} writable."
    )
