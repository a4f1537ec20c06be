"""What the Session tab shows of the settings, and what it saves of them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import Any

from modules.context import AppContext
from modules.errors import ForbiddenError, LanternError, SettingsError
from modules.host import BY_HAND
from modules.settings import ROOT, Settings, converted, read_again
from modules.settings_file import Plain, save_settings, saved_values

__all__ = ["check_setting", "fields_json", "save", "settings_json"]

_GROUPS: dict[str, tuple[str, ...]] = {
    "Model": ("model", "no_starter", "lora", "character", "loader", "api_base", "api_base_key",
              "ctx_size", "cache_tokens", "cache_type", "load_in_8bit", "load_in_4bit", "bf16",
              "wbits", "groupsize"),
    "Memory": ("cpu", "auto_devices", "gpu_memory", "cpu_memory", "disk", "disk_cache_dir"),
    "Page": ("listen_port", "auto_launch", "verbose"),
    "Access": ("listen", "listen_host", "share", "share_server_address", "subpath", "gradio_auth",
               "gradio_auth_path", "multi_user", "admin_remote", "ssl_keyfile", "ssl_certfile",
               "api_key", "admin_key"),
    "Extensions": ("extensions", "extension_dir"),
    "Folders": ("model_dir", "lora_dir", "prompt_dir", "user_data_dir"),
}  # fmt: skip
_OTHERS = "More"

_HERE_ALONE = frozenset({*_GROUPS["Access"], *_GROUPS["Folders"], "disk_cache_dir",
                         "api_base", "api_base_key"})  # fmt: skip
"""Who is let in, where files lie and where chats go is changed on the owner's machine alone: a link
of the owner's that gets into wrong hands must not open more than it did."""

_FILE_ALONE = frozenset({"extension_dir"})
"""A folder whose programs are run is named by whoever can write files there, not by a page."""

_WORDS = {"ctx": "context", "dir": "folder", "lora": "LoRA", "cpu": "CPU", "gpu": "GPU",
          "api": "API", "ssl": "SSL", "8bit": "8 bits", "4bit": "4 bits", "bf16": "bfloat16",
          "wbits": "GPTQ bits", "groupsize": "GPTQ group size"}  # fmt: skip


def settings_json(ctx: AppContext, *, local: bool) -> dict[str, Any]:
    """Every setting with its value, where that came from, and what is saved for the next launch.

    `fault` says what is wrong with the file, where it is: then nothing can be saved.
    """
    origins = ctx.host.origins
    fault = ""
    following: Settings | None = None
    try:
        following = read_again(origins)[0]
    except LanternError as error:
        fault = str(error)
    saved: Mapping[str, Any] = {}
    if not fault:
        saved = saved_values(origins.file)
    fields = fields_json(ctx, saved, following, local=local)
    return {
        "file": _file_name(ctx),
        "fault": fault,
        "groups": _grouped(fields),
        "fields": fields,
        "pending": [field["name"] for field in fields if field["pending"]],
        "restart": ctx.host.can_restart,
        "by_hand": "" if ctx.host.can_restart else BY_HAND,
    }


def fields_json(
    ctx: AppContext, saved: Mapping[str, Any], following: Settings | None, *, local: bool
) -> list[dict[str, Any]]:
    """One entry for each field of `Settings`; of secrets, only whether there are any."""
    found = []
    for field in dataclasses.fields(Settings):
        name, secret = field.name, bool(field.metadata.get("secret"))
        value = getattr(ctx.settings, name)
        after = getattr(following, name) if following else value
        kept = saved.get(name)
        found.append(
            {
                "name": name,
                "label": _label(name),
                "flag": "--" + name.replace("_", "-"),
                "help": field.metadata["help"],
                **_control(field),
                "secret": secret,
                "set": value != field.default,
                "value": _hidden(value) if secret else _shown(field, value),
                "default": _shown(field, field.default),
                "source": ctx.host.origins.of(name),
                "saved": None if kept is None else _hidden(kept) if secret else _written(kept),
                "overridden": _overridden(ctx, name),
                "pending": after != value,
                "next": _hidden(after) if secret else _shown(field, after),
                "locked": _locked(name, local=local),
            }
        )
    return found


def check_setting(name: str, value: Plain) -> str:
    """What is wrong with a value by itself; empty where nothing is."""
    if name not in {field.name for field in dataclasses.fields(Settings)}:
        return f"There is no setting {name[:60]!r}. Reload the page."
    try:
        converted(name, value)
    except SettingsError as error:
        return str(error)
    return ""


def save(ctx: AppContext, changes: Mapping[str, Plain | None], *, local: bool) -> None:
    """Write into settings.yaml. Raises SettingsError, StorageError, and ForbiddenError for what
    this caller may not change."""
    for name in changes:
        if locked := _locked(name, local=local):
            raise ForbiddenError(f"{_label(name)} cannot be changed from here.", locked)
    save_settings(ctx.host.origins, changes)


def _locked(name: str, *, local: bool) -> str:
    if name in _FILE_ALONE:
        return "Change it in settings.yaml or by its flag."
    if name in _HERE_ALONE and not local:
        return "Change it on the machine that Lantern runs on."
    return ""


def _grouped(fields: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    names = [field["name"] for field in fields]
    groups = [{"title": title, "names": [name for name in listed if name in names]}
              for title, listed in _GROUPS.items()]  # fmt: skip
    known = {name for listed in _GROUPS.values() for name in listed}
    rest = [name for name in names if name not in known]
    return [*groups, *([{"title": _OTHERS, "names": rest}] if rest else [])]


def _label(name: str) -> str:
    words = " ".join(_WORDS.get(word, word) for word in name.split("_"))
    return words[:1].upper() + words[1:]


def _control(field: dataclasses.Field[Any]) -> dict[str, Any]:
    kind = str(field.type)
    several = kind.startswith("tuple[")
    kind = {"bool": "switch", "int": "number", "Path": "path"}.get(kind, "text")
    bounds, form = field.metadata.get("bounds"), field.metadata.get("form")
    choices = field.metadata.get("choices")
    return {
        "kind": "choice" if choices else kind,
        "several": several,
        "choices": [str(choice) for choice in choices or ()],
        "bounds": list(bounds) if bounds and kind == "number" else None,
        "example": form[1] if form else field.metadata.get("metavar") or "",
    }


def _overridden(ctx: AppContext, name: str) -> str:
    """Why what is saved would not count; empty where it does."""
    source, flag = ctx.host.origins.of(name), "--" + name.replace("_", "-")
    if source == "flag" and name == "extensions":
        return f"Those that {flag} names come before what is saved here."
    if source == "flag":
        given = f"launch({name}=…)" if ctx.host.origins.given else f"the flag {flag}"
        return f"Lantern was started with {given}, which wins over what is saved here."
    variable = f"LANTERN_{name.upper()}"
    if source == "variable" or variable in os.environ:
        return f"The variable {variable} wins over what is saved here."
    return ""


def _shown(field: dataclasses.Field[Any], value: Any) -> Any:
    """A value as one would write it."""
    if isinstance(value, bool):
        return value
    if isinstance(value, tuple):
        return ", ".join(str(_shown(field, one)) for one in value)
    if isinstance(value, os.PathLike):
        return _below_root(str(value))
    if "Bytes" in str(field.type) and value:
        return _memory(value)
    return str(value)


def _below_root(path: str) -> str:
    return path.removeprefix(f"{ROOT}{os.sep}")


def _memory(size: int) -> str:
    for base, suffix in ((1024, "iB"), (1000, "B")):
        for power, prefix in ((4, "T"), (3, "G"), (2, "M"), (1, "K")):
            if size % base**power == 0:
                return f"{size // base**power}{prefix}{suffix}"
    return f"{size / 2**30:.6f}GiB"


def _written(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _hidden(value: Any) -> str:
    return "••••••••" if value else ""


def _file_name(ctx: AppContext) -> str:
    return ctx.host.redact(_below_root(str(ctx.host.origins.file)))
