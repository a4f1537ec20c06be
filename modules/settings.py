"""`Settings`: what a launch was told, from flags, environment and settings.yaml.

Flags win over the environment (`LANTERN_LISTEN_PORT=7999`), the environment wins over
settings.yaml, and that over the defaults. The flags keep the names that
text-generation-webui gave them. This module loads nothing heavy: `--help` must answer
at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from modules.errors import SettingsError
from modules.paths import Paths

__all__ = ["ROOT", "Settings", "load_settings"]

ROOT = Path(__file__).resolve().parent.parent
"""The folder that Lantern is installed in."""

_MAX_YAML_BYTES = 64 * 1024
_ENVIRONMENT_PREFIX = "LANTERN_"
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off", ""}


def _option(default: Any, help: str, *, metavar: str | None = None, secret: bool = False) -> Any:  # noqa: A002
    about = {"help": help, "metavar": metavar, "secret": secret}
    return dataclasses.field(default=default, metadata=about)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One launch. Each field is a flag, a variable and a key of settings.yaml."""

    model: str = _option("", "Model to load at start: a folder in models/, or a path to one.")
    model_dir: Path = _option(ROOT / "models", "Folder that holds the models.", metavar="DIR")
    user_data_dir: Path = _option(
        ROOT / "user_data", "Folder for chats and everything else that is kept.", metavar="DIR"
    )
    no_starter: bool = _option(False, "Do not fetch the starter model when models/ is empty.")
    cpu: bool = _option(False, "Run the model on the processor even if there is a card.")
    bf16: bool = _option(False, "Compute in bfloat16.")
    listen: bool = _option(
        False, "Serve other machines too, behind a token that is printed at start."
    )
    listen_host: str = _option("", "Address to listen on; anything but loopback needs the token.")
    listen_port: int = _option(7860, "Port of the page and of the API.", metavar="PORT")
    auto_launch: bool = _option(False, "Open the page in the browser when it is up.")
    api_key: str = _option("", "Key that the HTTP API asks for.", metavar="KEY", secret=True)
    verbose: bool = _option(False, "Log each request with its whole prompt.")

    @property
    def host(self) -> str:
        """The address to bind."""
        return self.listen_host or ("0.0.0.0" if self.listen else "127.0.0.1")  # noqa: S104

    @property
    def paths(self) -> Paths:
        """The folders that this launch uses."""
        return Paths(
            root=ROOT,
            models=self.model_dir,
            prompts=ROOT / "prompts",
            user_data=self.user_data_dir,
        )

    def __post_init__(self) -> None:
        if not 0 <= self.listen_port <= 65535:
            raise SettingsError(
                f"--listen-port cannot be {self.listen_port}.", "Use a port from 1 to 65535."
            )


def load_settings(
    argv: Sequence[str] | None = None, environment: Mapping[str, str] | None = None
) -> Settings:
    """Read flags, environment and settings.yaml, in that order of precedence.

    Raises SettingsError for a flag, a value or a key that does not fit; argparse itself
    answers `--help`, and exits.
    """
    environment = os.environ if environment is None else environment
    parser = _parser()
    flags = vars(_parse(parser, argv))
    named = flags.pop("settings")
    path = Path(named) if named else ROOT / "settings.yaml"
    if named and not path.is_file():
        raise SettingsError(f"There is no file {path}.", "Check the path after --settings.")
    values = _from_yaml(path) if path.is_file() else {}
    values |= _from_environment(environment)
    values |= {key: value for key, value in flags.items() if value is not None}
    return Settings(**values)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, where argparse prints its usage and exits."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(message[:1].upper() + message[1:] + ".", "See `server.py --help`.")


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """As argparse does it, but an unknown flag names its nearest neighbour."""
    flags, unknown = parser.parse_known_args(argv)
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        raise SettingsError(
            f"There is no flag {_shown(unknown[0])}.",
            _nearest(unknown[0].partition("=")[0], known) or "See `server.py --help`.",
        )
    return flags


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="server.py",
        description="Lantern: chat with local language models in your browser.",
        epilog="Every flag is also a key of settings.yaml (listen_port: 7999) and an "
        "environment variable (LANTERN_LISTEN_PORT=7999).",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--settings", metavar="FILE", help="Settings file to read instead of settings.yaml."
    )
    for field in dataclasses.fields(Settings):
        about: dict[str, Any] = {"help": field.metadata["help"], "default": None}
        if field.type == "bool":
            about |= {"action": "store_const", "const": True}
        else:
            about["metavar"] = field.metadata["metavar"]
            about["type"] = {"int": int, "Path": Path}.get(str(field.type), str)
            if field.default not in ("", None):
                shown = field.default
                if isinstance(shown, Path):
                    shown = shown.relative_to(ROOT)
                about["help"] += f" Default: {shown}."
        parser.add_argument("--" + field.name.replace("_", "-"), **about)
    return parser


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    found = {}
    for field in dataclasses.fields(Settings):
        name = _ENVIRONMENT_PREFIX + field.name.upper()
        if name in environment:
            found[field.name] = _converted(field, environment[name], name)
    return found


def _from_yaml(path: Path) -> dict[str, Any]:
    # Imported here, because most launches have no settings.yaml to read.
    import yaml

    if path.stat().st_size > _MAX_YAML_BYTES:
        raise SettingsError(f"{path.name} is larger than 64 KB.", "Remove what is not a setting.")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"{path.name} cannot be read: {error.strerror}.", "Make the file readable."
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: a date or a number that only looks like one. RecursionError: deep nesting.
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark else ""
        raise SettingsError(
            f"{path.name} is not valid YAML{place}.", "Write one `name: value` a line."
        ) from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise SettingsError(f"{path.name} is not a list of settings.", "Write `name: value` lines.")
    fields = {field.name: field for field in dataclasses.fields(Settings)}
    values = {}
    for key, value in data.items():
        name = str(key).replace("-", "_")
        if name not in fields:
            raise SettingsError(
                f"{path.name} has an unknown key {_shown(key)}.",
                _nearest(name, fields) or "See `server.py --help`.",
            )
        values[name] = _converted(fields[name], value, f"{key} in {path.name}")
    return values


def _converted(field: dataclasses.Field[Any], value: object, source: str) -> Any:
    """`value` in the type of `field`; text is read as the environment spells it."""
    if not isinstance(value, str | int | float):
        # Said without the value: written out, a list full of YAML aliases fills the memory.
        raise SettingsError(f"{source} has no plain value.", "Write one `name: value` a line.")
    text = str(value).strip()
    match field.type:
        case "bool":
            if text.lower() in _TRUE | _FALSE:
                return text.lower() in _TRUE
            raise SettingsError(f"{source} cannot be {_shown(text)}.", "Use true or false.")
        case "int":
            if re.fullmatch("-?[0-9]{1,18}", text):
                return int(text)
            raise SettingsError(f"{source} cannot be {_shown(text)}.", "Use a whole number.")
        case "Path" if "\0" in text or not text:
            raise SettingsError(f"{source} cannot be {_shown(text)}.", "Use the path of a folder.")
        case "Path":
            return Path(text)
    return text


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _nearest(name: str, known: Sequence[str] | Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name[:60], list(known), n=1)
    return f"Did you mean {near[0]}?" if near else ""
