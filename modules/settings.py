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
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from modules.errors import SettingsError
from modules.paths import Paths

__all__ = [
    "MAX_YAML_BYTES",
    "ROOT",
    "Settings",
    "load_settings",
    "nearest",
    "parse_yaml",
    "read_yaml",
    "settings_of",
]

ROOT = Path(__file__).resolve().parent.parent
"""The folder that Lantern is installed in."""

MAX_YAML_BYTES = 64 * 1024
_ENVIRONMENT_PREFIX = "LANTERN_"
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off", ""}
_MEMORY = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?) ?(?:([KMGT])(i?)B)?", re.IGNORECASE)
_MAX_MEMORY = 2**50
_ADDRESS = r"[A-Za-z0-9.-]{1,253}:[0-9]{1,5}"
_SUBPATH = r"(/[A-Za-z0-9_~@:=+-][A-Za-z0-9._~@:=+-]{0,99}){1,10}/?"
_MAX_VALUES = 64
"""Values that one flag may have."""

Bytes = int
"""An amount of memory, which a user writes as 20 (GiB), 20GiB, 20GB or 3500MiB."""


def _option(default: Any, help: str, *, metavar: str | None = None, **about: Any) -> Any:  # noqa: A002
    """A field; `bounds` (least, most), `choices` or `form` (pattern, example) limit it."""
    return dataclasses.field(default=default, metadata={"help": help, "metavar": metavar, **about})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One launch. Each field is a flag, a variable and a key of settings.yaml."""

    model: str = _option("", "Model to load at start: a folder in models/, or a path to one.")
    model_dir: Path = _option(ROOT / "models", "Folder that holds the models.", metavar="DIR")
    user_data_dir: Path = _option(
        ROOT / "user_data", "Folder for chats and everything else that is kept.", metavar="DIR"
    )
    no_starter: bool = _option(False, "Do not fetch the starter model when models/ is empty.")
    lora: tuple[str, ...] = _option(
        (), "LoRAs to apply at start: folders in loras/.", metavar="NAME"
    )
    lora_dir: Path = _option(ROOT / "loras", "Folder that holds the LoRAs.", metavar="DIR")
    prompt_dir: Path = _option(ROOT / "prompts", "Folder that holds the prompts.", metavar="DIR")
    load_in_8bit: bool = _option(False, "Quantize 16-bit weights to 8 bits while loading.")
    load_in_4bit: bool = _option(False, "Quantize 16-bit weights to 4 bits while loading.")
    bf16: bool = _option(False, "Compute in bfloat16.")
    ctx_size: int = _option(
        0,
        "Context to plan memory for, in tokens; 0: the model's own, or what fits.",
        metavar="TOKENS",
        bounds=(0, 2**24),
    )
    cache_tokens: int = _option(
        0,
        "Tokens of all chats together that the KV cache on a card has room for; 0: automatic.",
        metavar="TOKENS",
        bounds=(0, 2**20),
    )
    cache_type: str = _option(
        "16-bit",
        "Bits of a number in the KV cache; 8-bit makes room for twice as many tokens.",
        metavar="TYPE",
        choices=("16-bit", "8-bit"),
    )
    wbits: int = _option(
        0,
        "Bits of an old GPTQ checkpoint that does not say them itself.",
        metavar="BITS",
        choices=(0, 2, 3, 4, 8),
    )
    groupsize: int = _option(
        -1,
        "Group size of such a checkpoint; -1: one group a row.",
        metavar="SIZE",
        choices=(-1, 16, 32, 64, 128, 256, 512, 1024),
    )
    loader: str = _option(
        "auto",
        "gptqmodel reads quantized checkpoints through GPTQModel, where it is installed.",
        metavar="NAME",
        choices=("auto", "gptqmodel"),
    )
    cpu: bool = _option(False, "Run the model on the processor even if there is a card.")
    auto_devices: bool = _option(
        False, "Fill the cards, and put the layers that do not fit into the processor's memory."
    )
    gpu_memory: tuple[Bytes, ...] = _option(
        (),
        "The most to use of each card, one a card (20 is 20GiB; 3500MiB); the rest goes elsewhere.",
        metavar="SIZE",
        bounds=(1, _MAX_MEMORY),
    )
    cpu_memory: Bytes = _option(
        0,
        "The most of the processor's memory for layers that do not fit on the cards; 0: all.",
        metavar="SIZE",
        bounds=(0, _MAX_MEMORY),
    )
    disk: bool = _option(False, "Put the layers that fit nowhere else on the disk.")
    disk_cache_dir: str = _option(
        "", "Folder for layers on the disk. Default: offload in --user-data-dir.", metavar="DIR"
    )
    character: str = _option("", "Character of new chats: a file in characters/.", metavar="NAME")
    listen: bool = _option(
        False, "Serve other machines too, behind a token that is printed at start."
    )
    listen_host: str = _option("", "Address to listen on; anything but loopback needs the token.")
    listen_port: int = _option(
        7860, "Port of the page and of the API.", metavar="PORT", bounds=(0, 65535)
    )
    auto_launch: bool = _option(False, "Open the page in the browser when it is up.")
    share: bool = _option(
        False, "Open a public link to the page through a tunnel, behind a token or a login."
    )
    share_server_address: str = _option(
        "",
        "Tunnel server (frp) to use for --share instead of Gradio's.",
        metavar="HOST:PORT",
        form=(_ADDRESS, "tunnel.example.com:7000"),
    )
    subpath: str = _option(
        "",
        "Where a proxy shows the page: /proxy/7860 behind Jupyter. Who comes through it needs the "
        "token or a login.",
        metavar="PREFIX",
        form=(_SUBPATH, "/proxy/7860"),
    )
    gradio_auth: str = _option(
        "",
        "Logins for others than this machine, instead of the token: user:password,user2:password2.",
        metavar="LOGINS",
        secret=True,
    )
    gradio_auth_path: str = _option("", "File with such logins, one a line.", metavar="FILE")
    multi_user: bool = _option(
        False, "Chats belong to a login wherever it is used, and not to a browser."
    )
    admin_remote: bool = _option(
        False,
        "Let the owner in from other machines too, with a token of their own or with the first "
        "login: models, training, settings.",
    )
    ssl_keyfile: str = _option("", "Key of the certificate, to serve by https.", metavar="FILE")
    ssl_certfile: str = _option("", "Certificate, to serve by https.", metavar="FILE")
    api_key: str = _option("", "Key that the HTTP API asks for.", metavar="KEY", secret=True)
    admin_key: str = _option(
        "",
        "Key for loading, unloading and applying over the API; without it, for the owner alone.",
        metavar="KEY",
        secret=True,
    )
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
            prompts=self.prompt_dir,
            user_data=self.user_data_dir,
        )

    @property
    def offload_dir(self) -> Path:
        """The folder for layers that lie on the disk; emptied before each load."""
        if self.disk_cache_dir:  # where the user may have other files
            return Path(self.disk_cache_dir) / "lantern-offload"
        return self.user_data_dir / "offload"

    @property
    def models_yaml(self) -> Path:
        """The file with the saved options of each model."""
        return self.user_data_dir / "models.yaml"

    @property
    def templates_yaml(self) -> Path:
        """The file with the chat template that a user chose for a model."""
        return self.user_data_dir / "templates.yaml"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            for one in value if isinstance(value, tuple) else [value]:
                _check(field, one)
        if self.load_in_8bit and self.load_in_4bit:
            raise SettingsError(
                "--load-in-8bit and --load-in-4bit contradict each other.", "Give one of them."
            )
        if self.share and self.ssl_certfile:
            raise SettingsError(
                "--share and --ssl-certfile contradict each other.",
                "Leave the certificate out: a share link is https by itself.",
            )
        object.__setattr__(self, "subpath", self.subpath.rstrip("/"))


def _check(field: dataclasses.Field[Any], value: Any) -> None:
    """Raise SettingsError where `value` is out of the bounds of `field`."""
    choices, bounds = field.metadata.get("choices"), field.metadata.get("bounds")
    form, example = field.metadata.get("form", (None, ""))
    if choices and value not in choices:
        remedy = f"Use one of {', '.join(str(choice) for choice in choices)}."
    elif bounds and not bounds[0] <= value <= bounds[1]:
        remedy = f"Use a number from {bounds[0]} to {bounds[1]}."
    elif form and value and not re.fullmatch(form, value):
        remedy = f"Write it as {example}."
    else:
        return
    raise SettingsError(f"{_flag(field)} cannot be {_shown(value)}.", remedy)


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
    for name, value in flags.items():
        if value is not None:
            values[name] = tuple(value) if isinstance(value, list) else value
    return Settings(**values)


def settings_of(
    given: Mapping[str, object], environment: Mapping[str, str] | None = None
) -> Settings:
    """As `load_settings`, for a launch from Python: what was `given` takes the place of flags.

    Raises SettingsError.
    """
    fields = {field.name: field for field in dataclasses.fields(Settings)}
    path = ROOT / "settings.yaml"
    values = _from_yaml(path) if path.is_file() else {}
    values |= _from_environment(os.environ if environment is None else environment)
    for name, value in given.items():
        if name not in fields:
            raise SettingsError(
                f"There is no setting {_shown(name)}.",
                nearest(name, fields) or "See `server.py --help`.",
            )
        plain = [str(one) for one in value] if isinstance(value, list | tuple) else value
        values[name] = _converted(fields[name], str(value) if isinstance(value, Path) else plain,
                                  name)  # fmt: skip
    return Settings(**values)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, where argparse prints its usage and exits."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(message[:1].upper() + message[1:] + ".", "See `server.py --help`.")


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """As argparse does it, but an unknown flag names its nearest neighbour."""
    argv = [_dashed(argument) for argument in (sys.argv[1:] if argv is None else argv)]
    flags, unknown = parser.parse_known_args(argv)
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        raise SettingsError(
            f"There is no flag {_shown(unknown[0])}.",
            nearest(unknown[0].partition("=")[0], known) or "See `server.py --help`.",
        )
    return flags


def _dashed(argument: str) -> str:
    """--load_in_8bit as --load-in-8bit: text-generation-webui spells some flags either way."""
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else argument


def _flag(field: dataclasses.Field[Any]) -> str:
    return "--" + field.name.replace("_", "-")


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
            several = _element(field) != field.type
            about |= {"nargs": "+"} if several else {}
            about["type"] = {"int": int, "Path": Path, "Bytes": _memory}.get(_element(field), str)
            if field.default not in ("", (), 0, "auto", -1):
                shown = field.default
                if isinstance(shown, Path):
                    shown = shown.relative_to(ROOT)
                about["help"] += f" Default: {shown}."
        parser.add_argument(_flag(field), **about)
    return parser


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    found = {}
    for field in dataclasses.fields(Settings):
        name = _ENVIRONMENT_PREFIX + field.name.upper()
        if name in environment:
            found[field.name] = _converted(field, environment[name], name)
    return found


def read_yaml(path: Path) -> dict[str, Any]:
    """The names and values in a file of at most 64 KB. Raises SettingsError for a damaged one."""
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise SettingsError(
                f"{path.name} is larger than 64 KB.", "Remove what is not a setting."
            )
        return parse_yaml(path.read_bytes(), path.name)
    except OSError as error:
        raise SettingsError(
            f"{path.name} cannot be read: {error.strerror}.", "Make the file readable."
        ) from error


def parse_yaml(content: bytes, name: str) -> dict[str, Any]:
    """The names and values in `content`, the file `name`. Raises SettingsError."""
    # Imported here, because most launches have no settings.yaml to read.
    import yaml

    class Loader(yaml.SafeLoader):
        """Without merge keys (`<<`): nested ones double with each level."""

        def flatten_mapping(self, node: yaml.MappingNode) -> None:
            pass

    try:
        data = yaml.load(content.decode(), Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: a date or a number that only looks like one. RecursionError: deep nesting.
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark else ""
        raise SettingsError(
            f"{name} is not valid YAML{place}.", "Write one `name: value` a line."
        ) from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise SettingsError(f"{name} is not a list of settings.", "Write `name: value` lines.")
    return data


def _from_yaml(path: Path) -> dict[str, Any]:
    fields = {field.name: field for field in dataclasses.fields(Settings)}
    values = {}
    for key, value in read_yaml(path).items():
        name = str(key).replace("-", "_")
        if name not in fields:
            raise SettingsError(
                f"{path.name} has an unknown key {_shown(key)}.",
                nearest(name, fields) or "See `server.py --help`.",
            )
        values[name] = _converted(fields[name], value, f"{key} in {path.name}")
    return values


def _element(field: dataclasses.Field[Any]) -> str:
    """The type of a field as it is written, or of one of its values if it has several."""
    return str(field.type).removeprefix("tuple[").removesuffix(", ...]")


def _converted(field: dataclasses.Field[Any], value: object, source: str) -> Any:
    """`value` in the type of `field`; text is read as the environment spells it."""
    kind = _element(field)
    if kind == field.type:
        return _one(kind, value, source)
    values = value.split(",") if isinstance(value, str) else value
    values = values if isinstance(values, list) else [values]
    if len(values) > _MAX_VALUES:
        raise SettingsError(f"{source} has too many values.", f"Give at most {_MAX_VALUES}.")
    return tuple(_one(kind, one, source) for one in values)


def _one(kind: str, value: object, source: str) -> Any:
    if not isinstance(value, str | int | float):
        # Said without the value: written out, a list full of YAML aliases fills the memory.
        raise SettingsError(f"{source} has no plain value.", "Write one `name: value` a line.")
    text = str(value).strip()
    match kind:
        case "bool":
            if text.lower() in _TRUE | _FALSE:
                return text.lower() in _TRUE
            raise SettingsError(f"{source} cannot be {_shown(text)}.", "Use true or false.")
        case "int":
            if re.fullmatch("-?[0-9]{1,18}", text):
                return int(text)
            raise SettingsError(f"{source} cannot be {_shown(text)}.", "Use a whole number.")
        case "Bytes":
            try:
                return _memory(text)
            except argparse.ArgumentTypeError as error:
                raise SettingsError(f"{source}: {error}", "Write 20, 20GiB or 3500MiB.") from error
        case "Path" if "\0" in text or not text:
            raise SettingsError(f"{source} cannot be {_shown(text)}.", "Use the path of a folder.")
        case "Path":
            return Path(text)
    return text


def _memory(text: str) -> Bytes:
    """Bytes of "20" (GiB, as in text-generation-webui), "20GiB", "20GB" or "3500MiB"."""
    found = _MEMORY.fullmatch(text)
    if not found:
        raise argparse.ArgumentTypeError(f"{_shown(text)} is no amount of memory")
    number, prefix, binary = found.groups()
    base = 1024 if binary or not prefix else 1000
    size = int(float(number) * base ** ("KMGT".index((prefix or "G").upper()) + 1))
    if size > _MAX_MEMORY:
        raise argparse.ArgumentTypeError(f"{_shown(text)} is more than any machine has")
    return size


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def nearest(name: str, known: Sequence[str] | Mapping[str, object]) -> str:
    """Ask whether one of `known` was meant, or say nothing where none is near."""
    near = difflib.get_close_matches(name[:60], list(known), n=1)
    return f"Did you mean {near[0]}?" if near else ""
