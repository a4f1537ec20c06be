"""The small JSON files of a checkpoint: read within bounds, and refused where they name code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modules.errors import NotAModelError, UnsafeModelError
from modules.loader.weights import refuse_pickle

__all__ = ["AGAIN", "config_files", "read_object", "refuse_code"]

AGAIN = "Download this file again from the model's page."

_JSON_LIMIT = 32 * 2**20
# Keys of these are tokens and tensor names, so that they may be called anything.
_NOT_CONFIGS = {"tokenizer.json", "vocab.json", "added_tokens.json"}


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in `file`.

    Raises NotAModelError where it is damaged, and UnsafeModelError where it is a pickle.
    """
    content = _read_json(file)
    if not isinstance(content, dict):
        raise NotAModelError(f"{file.parent.name}/{file.name} holds no JSON object.", AGAIN)
    return content


def _read_json(file: Path) -> Any:
    name = f"{file.parent.name}/{file.name}"
    if file.stat().st_size > _JSON_LIMIT:
        raise NotAModelError(f"{name} is larger than {_JSON_LIMIT >> 20} MB.", AGAIN)
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        refuse_pickle(file)
        raise NotAModelError(f"{name} is no valid JSON.", AGAIN) from error


def config_files(path: Path) -> list[Path]:
    """The JSON files in the folder `path` whose keys are settings."""
    return [
        file
        for file in sorted(path.glob("*.json"))
        if file.name not in _NOT_CONFIGS
        and not file.name.endswith(".index.json")
        and file.is_file()
    ]


def refuse_code(file: Path) -> None:
    """Refuse settings that make transformers import code from the folder or from the Hub.

    Raises UnsafeModelError, and NotAModelError where the file cannot be read.
    """
    for key, value in _entries(_read_json(file)):
        if _runs_code(key, value):
            raise UnsafeModelError(
                f"{file.parent.name}/{file.name} sets {key}, by which a checkpoint runs code "
                "of its own.",
                "Use a version of the model that needs no code of its own.",
            )


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    pending = [value]
    while pending:
        current = pending.pop()
        if isinstance(current, dict):
            yield from current.items()
            pending.extend(current.values())
        elif isinstance(current, list):
            pending.extend(current)


def _runs_code(key: str, value: Any) -> bool:
    if key in {"auto_map", "trust_remote_code"}:
        return bool(value)
    if value is None or isinstance(value, bool):  # `_attn_implementation_autoset` is one
        return False
    if key == "transformers_weights":  # "adapter_model.bin" would be read as a pickle
        return not str(value).endswith((".safetensors", ".safetensors.index.json"))
    if key.startswith(("_attn_implementation", "_experts_implementation")):
        return True
    # transformers reads these as well; a plain word is a built-in, the rest is a Hub name.
    named = key in {"attn_implementation", "experts_implementation"}
    return named and not (isinstance(value, str) and value.isidentifier())
