"""`Settings`: what a launch was told, from flags, environment and settings.yaml.

Flags win over the environment (`LANTERN_LISTEN_PORT=7999`), the environment wins over
settings.yaml, and that over the defaults. The flags keep the names that
text-generation-webui gave them. This module loads nothing heavy: `--help` must answer
at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from modules.errors import InvalidNameError, SettingsError
from modules.paths import Paths, safe_child
from modules.setting_values import MAX_MEMORY, Bytes, check, convert, element, flag_of, memory
from modules.wording import nearest, shown
from modules.yaml_files import read_yaml

__all__ = [
    "ROOT",
    "Origins",
    "Settings",
    "Source",
    "converted",
    "load_settings",
    "read_again",
    "read_given",
    "read_launch",
    "settings_of",
]

ROOT = Path(__file__).resolve().parent.parent
"""The folder that Lantern is installed in."""

_ENVIRONMENT_PREFIX = "LANTERN_"
_ADDRESS = r"[A-Za-z0-9.-]{1,253}:[0-9]{1,5}"
_API_BASE = (
    r"https?://([^/?#@\s]{1,500}@)?([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?"
    r"(/[^?#\s]{0,500})?"
)
_SUBPATH = r"(/[A-Za-z0-9_~@:=+-][A-Za-z0-9._~@:=+-]{0,99}){1,10}/?"


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
        "gptqmodel reads quantized checkpoints through GPTQModel, where it is installed; openai "
        "has another server's models write, see --api-base.",
        metavar="NAME",
        choices=("auto", "openai", "gptqmodel"),
    )
    api_base: str = _option(
        "",
        "Address of an OpenAI-compatible server (vLLM, SGLang, another Lantern) whose models to "
        "use; goes with --loader openai.",
        metavar="URL",
        form=(_API_BASE, "http://127.0.0.1:8000/v1"),
        secret=True,  # it may have a login in it
    )
    api_base_key: str = _option(
        "",
        "Key that this server asks for; better in the variable LANTERN_API_BASE_KEY.",
        metavar="KEY",
        secret=True,
    )
    cpu: bool = _option(False, "Run the model on the processor even if there is a card.")
    auto_devices: bool = _option(
        False, "Fill the cards, and put the layers that do not fit into the processor's memory."
    )
    gpu_memory: tuple[Bytes, ...] = _option(
        (),
        "The most to use of each card, one a card (20 is 20GiB; 3500MiB); the rest goes elsewhere.",
        metavar="SIZE",
        bounds=(1, MAX_MEMORY),
    )
    cpu_memory: Bytes = _option(
        0,
        "The most of the processor's memory for layers that do not fit on the cards; 0: all.",
        metavar="SIZE",
        bounds=(0, MAX_MEMORY),
    )
    disk: bool = _option(False, "Put the layers that fit nowhere else on the disk.")
    disk_cache_dir: str = _option(
        "", "Folder for layers on the disk. Default: offload in --user-data-dir.", metavar="DIR"
    )
    extensions: tuple[str, ...] = _option(
        (), "Extensions to switch on, in this order: folders in extensions/.", metavar="NAME"
    )
    extension_dir: Path = _option(
        ROOT / "extensions", "Folder that holds the extensions.", metavar="DIR"
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
                check(field, one)
        if self.load_in_8bit and self.load_in_4bit:
            raise SettingsError(
                "--load-in-8bit and --load-in-4bit contradict each other.", "Give one of them."
            )
        if self.share and self.ssl_certfile:
            raise SettingsError(
                "--share and --ssl-certfile contradict each other.",
                "Leave the certificate out: a share link is https by itself.",
            )
        if self.loader == "openai" and not self.api_base:
            raise SettingsError(
                "--loader openai needs the address of a server.",
                "Add --api-base, such as http://127.0.0.1:8000/v1.",
            )
        if self.loader == "gptqmodel" and self.api_base:
            raise SettingsError(
                "--loader gptqmodel and --api-base contradict each other.", "Give one of them."
            )
        object.__setattr__(self, "subpath", self.subpath.rstrip("/"))


Source = Literal["flag", "variable", "file", "default"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origins:
    """Where the values of a launch came from, and what it takes to read them again.

    `sources` has a word for each field that is not left at its default. `given` are the
    arguments of a launch from Python, which count as flags. `extensions` are those that flags
    named, and `extension_params` what the file sets of them, under the keys `<name>-<param>`.
    """

    file: Path = ROOT / "settings.yaml"
    argv: tuple[str, ...] = ()
    given: Mapping[str, object] = dataclasses.field(default_factory=dict)
    sources: Mapping[str, Source] = dataclasses.field(default_factory=dict)
    extensions: tuple[str, ...] = ()
    extension_params: Mapping[str, object] = dataclasses.field(default_factory=dict)

    def of(self, name: str) -> Source:
        """Where the value of the field `name` came from."""
        return self.sources.get(name, "default")


def load_settings(
    argv: Sequence[str] | None = None, environment: Mapping[str, str] | None = None
) -> Settings:
    """Read flags, environment and settings.yaml, in that order of precedence.

    Raises SettingsError for a flag, a value or a key that does not fit; argparse itself
    answers `--help`, and exits.
    """
    return read_launch(argv, environment)[0]


def read_launch(
    argv: Sequence[str] | None = None, environment: Mapping[str, str] | None = None
) -> tuple[Settings, Origins]:
    """As `load_settings`, with where each value came from."""
    argv = sys.argv[1:] if argv is None else argv
    flags = vars(_parse(_parser(), argv))
    named = flags.pop("settings")
    path = Path(named) if named else ROOT / "settings.yaml"
    if named and not path.is_file():
        raise SettingsError(f"There is no file {path}.", "Check the path after --settings.")
    told = {name: value for name, value in flags.items() if value is not None}
    return _joined(Origins(file=path, argv=tuple(argv)), told, environment)


def settings_of(
    given: Mapping[str, object], environment: Mapping[str, str] | None = None
) -> Settings:
    """As `load_settings`, for a launch from Python: what was `given` takes the place of flags.

    Raises SettingsError.
    """
    return read_given(given, environment)[0]


def read_given(
    given: Mapping[str, object], environment: Mapping[str, str] | None = None
) -> tuple[Settings, Origins]:
    """As `settings_of`, with where each value came from."""
    return _joined(Origins(given=dict(given)), _from_python(given), environment)


def read_again(
    origins: Origins, file: Path | None = None, environment: Mapping[str, str] | None = None
) -> tuple[Settings, Origins]:
    """What the same launch would be told now, or with `file` for its settings.yaml.

    Raises SettingsError.
    """
    if origins.given:
        flags = _from_python(origins.given)
    else:
        flags = vars(_parse(_parser(), origins.argv))
        flags = {name: value for name, value in flags.items() if value is not None}
        flags.pop("settings", None)
    return _joined(dataclasses.replace(origins, file=file or origins.file), flags, environment)


def _joined(
    origins: Origins, flags: Mapping[str, Any], environment: Mapping[str, str] | None
) -> tuple[Settings, Origins]:
    """The settings of a launch from all that may set them, the strongest last."""
    file, others = _from_yaml(origins.file) if origins.file.is_file() else ({}, {})
    layers: tuple[tuple[Source, Mapping[str, Any]], ...] = (
        ("file", file),
        ("variable", _from_environment(os.environ if environment is None else environment)),
        ("flag", flags),
    )
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    for source, layer in layers:
        for name, value in layer.items():
            values[name] = tuple(value) if isinstance(value, list) else value
            sources[name] = source
    named = tuple(flags.get("extensions", ()))
    if "extensions" in values:  # those of the file come after those that were named
        both = (*values["extensions"], *file.get("extensions", ()))
        values["extensions"] = tuple(dict.fromkeys(both))
    settings = Settings(**values)
    _check_extension_params(others, settings.extension_dir, origins.file.name)
    return settings, dataclasses.replace(
        origins, sources=sources, extensions=named, extension_params=others
    )


def _check_extension_params(others: Mapping[str, object], folder: Path, file: str) -> None:
    """Raise SettingsError for a key that is neither a setting nor an extension's."""
    for key in others:
        parts = key.split("-")
        names = ("-".join(parts[:end]) for end in range(1, len(parts)))
        if not any(_is_folder(folder, name) for name in names):
            fields = [field.name for field in dataclasses.fields(Settings)]
            raise SettingsError(
                f"{file} has an unknown key {shown(key)}.",
                nearest(key.replace("-", "_"), fields) or "See `server.py --help`.",
            )


def _is_folder(root: Path, name: str) -> bool:
    try:
        return safe_child(root, name).is_dir()
    except InvalidNameError:
        return False


def _from_python(given: Mapping[str, object]) -> dict[str, Any]:
    fields = {field.name: field for field in dataclasses.fields(Settings)}
    values = {}
    for name, value in given.items():
        if name not in fields:
            raise SettingsError(
                f"There is no setting {shown(name)}.",
                nearest(name, fields) or "See `server.py --help`.",
            )
        plain = [str(one) for one in value] if isinstance(value, list | tuple) else value
        values[name] = convert(fields[name], str(value) if isinstance(value, Path) else plain,
                                  name)  # fmt: skip
    return values


def converted(name: str, value: object) -> Any:
    """What `value`, as a file may spell it, is for the field `name`.

    Raises SettingsError for one that does not fit it.
    """
    (field,) = (one for one in dataclasses.fields(Settings) if one.name == name)
    found = convert(field, value, flag_of(field))
    for one in found if isinstance(found, tuple) else [found]:
        check(field, one)
    return found


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, where argparse prints its usage and exits."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(message[:1].upper() + message[1:] + ".", "See `server.py --help`.")


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """As argparse does it, but an unknown flag names its nearest neighbour."""
    argv = [_dashed(argument) for argument in argv]
    flags, unknown = parser.parse_known_args(argv)
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        raise SettingsError(
            f"There is no flag {shown(unknown[0])}.",
            nearest(unknown[0].partition("=")[0], known) or "See `server.py --help`.",
        )
    return flags


def _dashed(argument: str) -> str:
    """--load_in_8bit as --load-in-8bit: text-generation-webui spells some flags either way."""
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else argument


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
            several = element(field) != field.type
            about |= {"nargs": "+"} if several else {}
            about["type"] = {"int": int, "Path": Path, "Bytes": memory}.get(element(field), str)
            if field.default not in ("", (), 0, "auto", -1):
                shown = field.default
                if isinstance(shown, Path):
                    shown = shown.relative_to(ROOT)
                about["help"] += f" Default: {shown}."
        parser.add_argument(flag_of(field), **about)
    return parser


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    found = {}
    for field in dataclasses.fields(Settings):
        name = _ENVIRONMENT_PREFIX + field.name.upper()
        if name in environment:
            found[field.name] = convert(field, environment[name], name)
    return found


def _from_yaml(path: Path) -> tuple[dict[str, Any], dict[str, object]]:
    """What the file sets, and its other keys, which may be those of extensions."""
    fields = {field.name: field for field in dataclasses.fields(Settings)}
    values, others = {}, {}
    for key, value in read_yaml(path).items():
        name = str(key).replace("-", "_")
        if name in fields:
            values[name] = convert(fields[name], value, f"{key} in {path.name}")
        else:
            others[str(key)] = value
    return values, others
