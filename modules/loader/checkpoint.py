"""What a checkpoint folder holds, and whether it is complete and safe to load.

Read before any library sees the folder: small JSON files and safetensors headers only,
never a tensor.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.errors import LanternError, ModelNotFoundError, NotAModelError, UnsafeModelError
from modules.loader.weights import read_safetensors_header, refuse_pickle
from modules.paths import safe_child

__all__ = [
    "Checkpoint",
    "ModelEntry",
    "check_checkpoint",
    "find_model",
    "find_model_or_path",
    "list_models",
]

_JSON_LIMIT = 32 * 2**20
_AGAIN = "Download this file again from the model's page."
_INDEX = "model.safetensors.index.json"
_NOT_WEIGHTS = {".json", ".md", ".txt", ".py", ".jinja", ".zip"}
_TOKENIZERS = (
    ("tokenizer.json",),
    ("tokenizer.model",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("spiece.model",),
)
# Keys of these are tokens and tensor names, so that they may be called anything.
_NOT_CONFIGS = {"tokenizer.json", "vocab.json", "added_tokens.json"}
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A folder in the models directory.

    `size_bytes` counts its files; `problem` is one sentence, empty for a usable checkpoint.
    """

    name: str
    path: Path
    size_bytes: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that passed every check.

    `architecture` is the class that config.json names, `context_length` is in tokens (0
    where config.json is silent), `size_bytes` counts the weights, `quantization` is the
    method ("gptq", "awq", ...) or empty, `weights` are the safetensors files to load.
    """

    path: Path
    architecture: str
    context_length: int
    size_bytes: int
    quantization: str
    has_chat_template: bool
    weights: tuple[Path, ...]

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.path.name


# -- finding ----------------------------------------------------------------------------


def list_models(models_dir: Path) -> list[ModelEntry]:
    """The folders in `models_dir` by name, with what is wrong with each.

    Hidden folders, which are downloads under way, and plain files are left out.
    """
    return [_entry(models_dir, name) for name in _folders(models_dir)]


def find_model(models_dir: Path, name: str) -> Path:
    """The folder called `name` in `models_dir`.

    Raises InvalidNameError for what is no plain name, and ModelNotFoundError, naming the
    nearest neighbour, where there is no such folder.
    """
    path = safe_child(models_dir, name)
    if path.is_dir():
        return path
    names = _folders(models_dir)
    if not names:
        raise ModelNotFoundError(
            f"There is no model called {name}: {models_dir.name}/ is empty.",
            "Run python download-model.py starter, or put a checkpoint folder there.",
        )
    by_lower = {known.lower(): known for known in reversed(names)}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    raise ModelNotFoundError(
        f"There is no model called {name} in {models_dir.name}/.",
        f"Did you mean {by_lower[near[0]]}?" if near else f"There are: {_some(names)}.",
    )


def find_model_or_path(models_dir: Path, text: str) -> Path:
    """As `find_model`, but a path to a folder anywhere is good too.

    For the command line only: what comes through the page or the API may never be a path.
    """
    if re.search(r"[/\\]|^[.~]", text) is None:
        return find_model(models_dir, text)
    path = Path(text).expanduser().resolve()
    if not path.is_dir():
        raise ModelNotFoundError(
            f"There is no folder {text}.",
            f"Give the path of a checkpoint folder, or the name of one in {models_dir.name}/.",
        )
    return path


def _folders(models_dir: Path) -> list[str]:
    if not models_dir.is_dir():
        return []
    names = (child.name for child in models_dir.iterdir() if child.is_dir())
    return sorted((n for n in names if not n.startswith(".")), key=lambda n: (n.lower(), n))


def _entry(models_dir: Path, name: str) -> ModelEntry:
    path, size, problem = models_dir / name, 0, ""
    try:
        size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
        check_checkpoint(safe_child(models_dir, name))
    except LanternError as error:
        problem = error.message
    except OSError as error:
        problem = f"{name} cannot be read: {error.strerror}."
    return ModelEntry(name, path, size, problem)


# -- checking ---------------------------------------------------------------------------


def check_checkpoint(path: Path) -> Checkpoint:
    """Read the small files and the weight headers in the folder `path`.

    Raises NotAModelError where something is missing or damaged, and UnsafeModelError where
    loading would run code that the folder brings or names.
    """
    if not path.is_dir():
        raise ModelNotFoundError(f"There is no folder {path}.", "Choose one in models/.")
    config = _read_config(path)
    _refuse_code(path)
    weights = _find_weights(path)
    for file in weights:
        read_safetensors_header(file)
    if not any(all((path / part).is_file() for part in parts) for parts in _TOKENIZERS):
        raise NotAModelError(
            f"{path.name} has no tokenizer.",
            "Copy tokenizer.json (or tokenizer.model) from the model's page into the folder.",
        )
    return Checkpoint(
        path=path,
        architecture=_architecture(path, config),
        context_length=_context_length(config),
        size_bytes=sum(file.stat().st_size for file in weights),
        quantization=_quantization(path, config),
        has_chat_template=_has_chat_template(path),
        weights=weights,
    )


def _read_config(path: Path) -> dict[str, Any]:
    if (path / "adapter_config.json").is_file():  # transformers would load its base instead
        raise NotAModelError(
            f"{path.name} is a LoRA adapter, not a model.",
            "Move it into loras/, or delete adapter_config.json if it is merged into the model.",
        )
    if (path / "config.json").is_file():
        return _read_object(path / "config.json")
    if any(path.glob("*.gguf")):
        raise NotAModelError(
            f"{path.name} holds GGUF weights, which Lantern does not load.",
            "Get the safetensors version of the model.",
        )
    raise NotAModelError(
        f"{path.name} has no config.json.",
        "Download the model's folder again, with all of its files.",
    )


def _read_object(file: Path) -> dict[str, Any]:
    content = _read_json(file)
    if not isinstance(content, dict):
        raise NotAModelError(f"{file.parent.name}/{file.name} holds no JSON object.", _AGAIN)
    return content


def _read_json(file: Path) -> Any:
    name = f"{file.parent.name}/{file.name}"
    if file.stat().st_size > _JSON_LIMIT:
        raise NotAModelError(f"{name} is larger than {_JSON_LIMIT >> 20} MB.", _AGAIN)
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise NotAModelError(f"{name} is no valid JSON.", _AGAIN) from error


def _refuse_code(path: Path) -> None:
    """Refuse settings that make transformers import code from the folder or from the Hub."""
    for file in sorted(path.glob("*.json")):
        if file.name in _NOT_CONFIGS or file.name.endswith(".index.json") or not file.is_file():
            continue
        for key, value in _entries(_read_json(file)):
            if _runs_code(key, value):
                raise UnsafeModelError(
                    f"{path.name}/{file.name} sets {key}, by which a checkpoint runs code "
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
    if key.startswith(("_attn_implementation", "_experts_implementation")):
        return True
    # transformers reads these as well; a plain word is a built-in, the rest is a Hub name.
    named = key in {"attn_implementation", "experts_implementation"}
    return named and not (isinstance(value, str) and value.isidentifier())


def _find_weights(path: Path) -> tuple[Path, ...]:
    if (path / _INDEX).is_file():
        return _shards(path)
    if (path / "model.safetensors").is_file():
        return (path / "model.safetensors",)
    others = [file for file in sorted(path.iterdir()) if file.is_file()]
    for file in (file for file in others if file.suffix not in _NOT_WEIGHTS):
        refuse_pickle(file)
    if any(file.suffix == ".safetensors" for file in others):
        raise NotAModelError(
            f"{path.name} has neither model.safetensors nor {_INDEX}.",
            "Download the missing file, or rename a single weight file to model.safetensors.",
        )
    raise NotAModelError(
        f"{path.name} has no weights.", "Download the model's safetensors files into the folder."
    )


def _shards(path: Path) -> tuple[Path, ...]:
    names = _shard_names(_read_object(path / _INDEX).get("weight_map"))
    if not names:
        raise NotAModelError(
            f"{path.name}/{_INDEX} does not say which files hold the weights.",
            _AGAIN,
        )
    missing = sorted(name for name in names if not (path / name).is_file())
    if missing:
        raise NotAModelError(
            f"{path.name} lacks {_some(missing)}, which {_INDEX} names.",
            "Download the missing files into the folder.",
        )
    return tuple(path / name for name in sorted(names))


def _shard_names(weight_map: Any) -> set[str]:
    """The files that an index names; none where one of them is no plain file name."""
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    plain = re.compile(r"[\w.-]+\.safetensors")
    if not all(isinstance(name, str) and plain.fullmatch(name) for name in names):
        return set()
    return set(names)


# -- what the configuration says --------------------------------------------------------


def _architecture(path: Path, config: dict[str, Any]) -> str:
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else config.get("model_type")
    if not isinstance(name, str) or not isinstance(config.get("model_type"), str):
        raise NotAModelError(
            f"{path.name}/config.json names no architecture.",
            _AGAIN,
        )
    return name


def _context_length(config: dict[str, Any]) -> int:
    nested = config.get("text_config")
    for source in (config, nested if isinstance(nested, dict) else {}):
        for key in _CONTEXT_KEYS:
            if type(source.get(key)) is int and source[key] > 0:
                return int(source[key])
    return 0


def _quantization(path: Path, config: dict[str, Any]) -> str:
    section = config.get("quantization_config")
    if not isinstance(section, dict) and (path / "quantize_config.json").is_file():
        section = {"quant_method": "gptq"} | _read_object(path / "quantize_config.json")
    return str(section.get("quant_method", "unknown")) if isinstance(section, dict) else ""


def _has_chat_template(path: Path) -> bool:
    if any((path / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    file = path / "tokenizer_config.json"
    return file.is_file() and bool(_read_object(file).get("chat_template"))


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
