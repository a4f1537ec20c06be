"""Which files of a folder are its weights, under any of the names in the wild."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from modules.errors import ModelError, NotAModelError, UnsafeModelError
from modules.loader.json_files import AGAIN, read_object
from modules.loader.weights import read_safetensors_header, refuse_pickle

__all__ = ["find_weights", "some"]

_SINGLE = "model.safetensors"
_INDEX = ".safetensors.index.json"
_NOT_WEIGHTS = {".json", ".md", ".txt", ".py", ".jinja", ".zip"}
_SHARD = re.compile(r"(.+)-(\d{3,6})-of-(\d{3,6})(\.\w+)")
_EMBEDDINGS = re.compile(r"embed|wte")


def find_weights(path: Path, layers: int = 0) -> tuple[Path, ...]:
    """The safetensors or GGUF files to load from the folder `path`.

    The usual names come first, in the order of transformers; Mistral's `consolidated` twin
    is passed over. Of several sets under other names, the one is taken that alone holds an
    embedding and all `layers`. Raises NotAModelError where nothing can be chosen, and
    UnsafeModelError where there are only pickles.
    """
    files = sorted(file for file in path.iterdir() if file.is_file())
    if path / _SINGLE in files:
        return (path / _SINGLE,)
    usable = [file for file in files if not file.name.startswith(("consolidated", "adapter_"))]
    indexes = [file for file in usable if file.name.endswith(_INDEX)]
    if path / f"model{_INDEX}" in indexes:
        indexes = [path / f"model{_INDEX}"]
    if indexes:
        return _shards(_only(path, [[file] for file in indexes])[0])
    stray = [file for file in usable if file.suffix == ".safetensors"]
    if stray:
        return _stray_weights(path, stray, layers)
    gguf = [file for file in usable if file.suffix == ".gguf" and "mmproj" not in file.name]
    if gguf:
        return (_gguf_file(path, gguf),)
    raise _no_weights(path, files)


def some(names: Iterable[str]) -> str:
    """The first three of `names`, and how many more there are."""
    every = list(names)
    shown = ", ".join(every[:3])
    return shown if len(every) <= 3 else f"{shown} and {len(every) - 3} more"


def _shards(index: Path) -> tuple[Path, ...]:
    path = index.parent
    names = _shard_names(read_object(index).get("weight_map"))
    if not names:
        raise NotAModelError(
            f"{path.name}/{index.name} does not say which files hold the weights.", AGAIN
        )
    missing = sorted(name for name in names if not (path / name).is_file())
    if missing:
        raise _lacking(path, missing, f"which {index.name} names")
    return tuple(path / name for name in sorted(names))


def _shard_names(weight_map: Any) -> set[str]:
    """The files that an index names; none where one of them is no plain file name."""
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    plain = re.compile(r"[\w.-]+\.safetensors")
    if not all(isinstance(name, str) and plain.fullmatch(name) for name in names):
        return set()
    return set(names)


def _stray_weights(path: Path, files: list[Path], layers: int) -> tuple[Path, ...]:
    sets = _by_set(files)
    if len(sets) > 1:
        sets = [each for each in sets if _is_whole(each, layers)] or sets
    chosen = _only(path, sets)
    missing = _missing_shards(chosen)
    if missing:
        raise _lacking(path, missing, f"which belong to {chosen[0].name}")
    return tuple(chosen)


def _by_set(files: list[Path]) -> list[list[Path]]:
    """Files that are parts of one (`x-00001-of-00002.safetensors`) together, others alone."""
    sets: dict[str, list[Path]] = {}
    for file in files:
        part = _SHARD.fullmatch(file.name)
        key = f"{part[1]}-of-{part[3]}" if part else file.name
        sets.setdefault(key, []).append(file)
    return list(sets.values())


def _missing_shards(files: list[Path]) -> list[str]:
    part = _SHARD.fullmatch(files[0].name)
    if part is None:
        return []
    # Bounded by what lies there, because a name may claim any number.
    last = min(int(part[3]), len(files) + 3)
    present = {file.name for file in files}
    wanted = [f"{part[1]}-{i:0{len(part[2])}}-of-{part[3]}{part[4]}" for i in range(1, last + 1)]
    return [name for name in wanted if name not in present]


def _is_whole(files: list[Path], layers: int) -> bool:
    try:
        names = [name for file in files for name in read_safetensors_header(file)]
    except ModelError:
        return False
    has_last = not layers or any(f".{layers - 1}." in name for name in names)
    has_embedding = any(_EMBEDDINGS.search(name) for name in names)
    return has_last and has_embedding and not _missing_shards(files)


def _only(path: Path, sets: list[list[Path]]) -> list[Path]:
    if len(sets) > 1:
        raise NotAModelError(
            f"{path.name} holds more than one set of weights: "
            f"{some(files[0].name for files in sets)}.",
            "Leave the one that you want in the folder, and move the others elsewhere.",
        )
    return sets[0]


def _gguf_file(path: Path, files: list[Path]) -> Path:
    chosen = _only(path, _by_set(files))
    if _SHARD.fullmatch(chosen[0].name):  # transformers reads a GGUF file alone
        raise NotAModelError(
            f"{path.name} holds GGUF weights that are split into several files.",
            "Join them with llama-gguf-split --merge, or get a version in one file.",
        )
    return chosen[0]


def _lacking(path: Path, missing: list[str], why: str) -> NotAModelError:
    return NotAModelError(
        f"{path.name} lacks {some(missing)}, {why}.",
        "Download the missing files into the folder.",
    )


def _no_weights(path: Path, files: list[Path]) -> ModelError:
    """Why there are none: only pickles, only Mistral's own format, or nothing at all."""
    for file in files:
        if file.suffix not in _NOT_WEIGHTS:
            try:
                refuse_pickle(file)
            except UnsafeModelError as error:
                return error
    if any(file.name.startswith("consolidated") for file in files):
        return NotAModelError(
            f"{path.name} has its weights in Mistral's own format alone (consolidated).",
            "Download the model's other safetensors files, and their index, into the folder.",
        )
    return NotAModelError(
        f"{path.name} has no weights.", "Download the model's safetensors files into the folder."
    )
