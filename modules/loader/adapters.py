"""LoRA adapters on disk: what lies in loras/, and whether it is one that can be applied.

Read before any library sees the folder: adapter_config.json and the header of the weights,
never a tensor. Which layers an adapter changes, and with what rank, is taken from its weights;
of its config, only what changes the sum is read, and whatever else would is refused. So the
keys by which a config imports modules (`auto_mapping`) lead nowhere.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from modules.errors import AdapterError, LanternError
from modules.loader.adapter_base import base_warning
from modules.loader.json_files import read_object
from modules.loader.weights import read_safetensors_header, refuse_pickle
from modules.paths import safe_child

__all__ = [
    "AdapterCheck",
    "AdapterEntry",
    "AdapterLayer",
    "check_adapter",
    "find_adapter",
    "list_adapters",
]

Kind = Literal["LoRA", "rsLoRA", "DoRA"]

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MANIFEST = "lantern.json"
"""Written by Lantern's own training; its `base_sha256` is the fingerprint of the base."""

_MAX_RANK = 4096
_MAX_ALPHA = 1e6
_DTYPES = {"F32", "F16", "BF16"}
_PLAIN = "Use an adapter that is plain LoRA, rsLoRA or DoRA."
_AGAIN = "Download the adapter again."

# Keys that steer a training, or say where to look, and leave a finished adapter's sum alone.
_WITHOUT_EFFECT = {
    "auto_mapping", "base_model_name_or_path", "corda_config", "enable_lora", "eva_config",
    "exclude_modules", "fan_in_fan_out", "inference_mode", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_dropout", "lora_ga_config", "megatron_core",
    "merge_weights", "modules_to_save", "peft_version", "qalora_group_size", "revision",
    "runtime_config", "target_modules", "task_type",
}  # fmt: skip
_READ = {
    "alpha_pattern", "bias", "init_lora_weights", "lora_alpha", "peft_type", "r",
    "rank_pattern", "use_dora", "use_rslora",
}  # fmt: skip
# Ways to begin a training that leave the base as it was; the others (PiSSA, OLoRA) change it.
_HARMLESS_BEGINNINGS = {"gaussian", "eva", "orthogonal", "mica"}

_TENSOR = re.compile(
    r"(?:base_model\.model\.)?(?P<module>[\w.]{1,300}?)\.(?:weight|"
    r"(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector"
    r"|base_layer|modules_to_save)(?:\.default)?(?:\.weight)?)"
)
_PARTS = {
    "lora_A": "a",
    "lora_B": "b",
    "lora_embedding_A": "a",
    "lora_embedding_B": "b",
    "lora_magnitude_vector": "magnitude",
}


@dataclass(frozen=True, slots=True)
class AdapterEntry:
    """A folder in loras/. `problem` is one sentence, empty for one that can be applied.

    `targets` are the kinds of modules that it changes, `warning` is a sentence about the loaded
    model, if it is not the one of the training.
    """

    name: str
    path: Path
    size_bytes: int
    kind: str = ""
    rank: int = 0
    targets: tuple[str, ...] = ()
    base: str = ""
    warning: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class AdapterLayer:
    """What an adapter does to one module of the base.

    `tensors` maps "a" [rank, in], "b" [out, rank], "magnitude" [out] and "weight" (a whole
    weight in the place of the base's) to names in the file. An embedding has `a`
    [rank, vocabulary] and `b` [size, rank]. `scaling` multiplies b·a.
    """

    tensors: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    embedding: bool
    scaling: float

    @property
    def rank(self) -> int:
        """The rank of b·a; 0 where there is only a whole weight."""
        return self.shapes["a"][0] if "a" in self.shapes else 0


@dataclass(frozen=True, slots=True)
class AdapterCheck:
    """An adapter that passed every check for which its base need not be there.

    `layers` are by the name of the module, `alpha` and `rank` the largest, `base` is the name
    of the model that it was trained on, where it says so.
    """

    name: str
    path: Path
    kind: Kind
    base: str
    alpha: float
    parameters: int
    layers: Mapping[str, AdapterLayer]
    warning: str = ""

    @property
    def weights(self) -> Path:
        """The file with the tensors."""
        return self.path / WEIGHTS

    @property
    def rank(self) -> int:
        """The largest rank of a layer."""
        return max(layer.rank for layer in self.layers.values())

    @property
    def target_modules(self) -> tuple[str, ...]:
        """The last part of the name of each module that it changes: q_proj, v_proj."""
        return tuple(sorted({name.rpartition(".")[2] for name in self.layers}))


@dataclass(frozen=True, slots=True)
class _Config:
    kind: Kind
    base: str
    alpha: float
    alphas: Mapping[str, float]
    ranks: frozenset[int]

    def scaling(self, module: str, rank: int) -> float:
        """What b·a is multiplied by (arxiv.org/abs/2106.09685; rsLoRA: 2312.03732)."""
        alpha = next((a for key, a in self.alphas.items() if _named(key, module)), self.alpha)
        return alpha / (math.sqrt(rank) if self.kind == "rsLoRA" else rank)


# -- finding ----------------------------------------------------------------------------


def list_adapters(loras_dir: Path, base: Path | None = None) -> list[AdapterEntry]:
    """The folders in `loras_dir` by name; `base` is the folder of the loaded model."""
    return [_entry(loras_dir, name, base) for name in _folders(loras_dir)]


def find_adapter(loras_dir: Path, name: str) -> Path:
    """The folder called `name` in `loras_dir`.

    Raises InvalidNameError for what is no plain name, and AdapterError, naming the nearest
    neighbour, where there is no such folder.
    """
    path = safe_child(loras_dir, name)
    if path.is_dir():
        return path
    names = _folders(loras_dir)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    raise AdapterError(
        f"There is no LoRA called {name} in {loras_dir.name}/.",
        f"Did you mean {near[0]}?" if near else "Put the adapter's folder there.",
    )


def _folders(loras_dir: Path) -> list[str]:
    if not loras_dir.is_dir():
        return []
    names = (child.name for child in loras_dir.iterdir() if child.is_dir())
    return sorted((n for n in names if not n.startswith(".")), key=lambda n: (n.lower(), n))


def _entry(loras_dir: Path, name: str, base: Path | None) -> AdapterEntry:
    path, size = loras_dir / name, 0
    try:
        size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
        check = check_adapter(safe_child(loras_dir, name), base)
    except LanternError as error:
        return AdapterEntry(name, path, size, problem=error.message)
    except OSError as error:
        return AdapterEntry(name, path, size, problem=f"It cannot be read: {error.strerror}.")
    return AdapterEntry(
        name=name,
        path=path,
        size_bytes=size,
        kind=check.kind,
        rank=check.rank,
        targets=check.target_modules,
        base=check.base,
        warning=check.warning,
    )


# -- checking ---------------------------------------------------------------------------


def check_adapter(folder: Path, base: Path | None = None) -> AdapterCheck:
    """Read the config and the header of the weights in `folder`.

    `base` is the folder of the loaded model, for a warning where it is not the one that the
    adapter names. Raises AdapterError for what is missing, wrong or not supported,
    NotAModelError for damaged weights, and UnsafeModelError for a pickle.
    """
    name = folder.name
    config = _read_config(folder)
    weights = _find_weights(folder)
    layers = _layers(name, config, read_safetensors_header(weights))
    sizes = (math.prod(shape) for layer in layers.values() for part, shape in layer.shapes.items())
    sha256 = _manifest(folder)
    return AdapterCheck(
        name=name,
        path=folder,
        kind=config.kind,
        base=config.base,
        alpha=max([config.alpha, *config.alphas.values()]),
        parameters=sum(sizes),
        layers=layers,
        warning=base_warning(base, config.base, sha256) if base else "",
    )


def _find_weights(folder: Path) -> Path:
    if not (folder / WEIGHTS).is_file():
        for file in sorted(folder.glob("adapter_model*")):
            refuse_pickle(file)
        raise AdapterError(f"{folder.name} has no {WEIGHTS}.", _AGAIN)
    return folder / WEIGHTS


def _read_config(folder: Path) -> _Config:
    if not (folder / CONFIG).is_file():
        raise AdapterError(
            f"{folder.name} has no {CONFIG}, so it is no LoRA.",
            "Download the adapter's folder again, with all of its files.",
        )
    config = read_object(folder / CONFIG)
    name, kind = folder.name, config.get("peft_type")
    if kind != "LORA":
        raise AdapterError(f"{name} is no LoRA but {_shown(kind)}.", _PLAIN)
    _refuse_unknown(name, config)
    ranks = _numbers(name, config, "rank_pattern", 1, _MAX_RANK).values()
    return _Config(
        kind=_kind(name, config),
        base=_base_name(config),
        alpha=_number(name, "lora_alpha", config.get("lora_alpha", 8), 0, _MAX_ALPHA),
        alphas=_numbers(name, config, "alpha_pattern", 0, _MAX_ALPHA),
        ranks=frozenset(
            int(r) for r in (_number(name, "r", config.get("r", 8), 1, _MAX_RANK), *ranks)
        ),
    )


def _refuse_unknown(name: str, config: Mapping[str, Any]) -> None:
    """Refuse what would change the sum, or the base, in a way that is not ours."""
    for key, value in config.items():
        if key not in _WITHOUT_EFFECT | _READ and value:
            raise AdapterError(f"{name} sets {_shown(key)}, which Lantern does not apply.", _PLAIN)
    if config.get("bias", "none") not in ("none", None):
        raise AdapterError(f"{name} trained biases too, which Lantern does not apply.", _PLAIN)
    begun = config.get("init_lora_weights", True)
    if not isinstance(begun, bool | None) and str(begun) not in _HARMLESS_BEGINNINGS:
        raise AdapterError(
            f"{name} was begun as {_shown(begun)}, which changes the weights of the base too.",
            "Have PEFT convert it to plain LoRA (path_initial_model_for_weight_conversion).",
        )


def _kind(name: str, config: Mapping[str, Any]) -> Kind:
    stabilized, decomposed = (bool(config.get(key)) for key in ("use_rslora", "use_dora"))
    if stabilized and decomposed:
        raise AdapterError(f"{name} is rsLoRA and DoRA at once.", _PLAIN)
    return "DoRA" if decomposed else "rsLoRA" if stabilized else "LoRA"


def _base_name(config: Mapping[str, Any]) -> str:
    base = config.get("base_model_name_or_path")
    return " ".join(base.split())[:200] if isinstance(base, str) else ""


def _manifest(folder: Path) -> str:
    """The fingerprint of the base that a training of Lantern's noted, or nothing."""
    if not (folder / MANIFEST).is_file():
        return ""
    sha256 = read_object(folder / MANIFEST).get("base_sha256")
    return sha256 if isinstance(sha256, str) else ""


def _number(name: str, key: str, value: Any, least: float, most: float) -> float:
    # A comparison with nan is false.
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise AdapterError(f"{name} sets {key} to {_shown(value)}.", _AGAIN)
    return float(value)


def _numbers(
    name: str, config: Mapping[str, Any], key: str, least: float, most: float
) -> dict[str, float]:
    """A table of numbers by module. A key is never run as the regular expression it may be."""
    table = config.get(key) or {}
    if not isinstance(table, dict):
        raise AdapterError(f"{name} sets {key} to {_shown(table)}.", _AGAIN)
    if key == "alpha_pattern" and not all(re.fullmatch(r"\^?[\w.]{1,300}", k) for k in table):
        raise AdapterError(f"{name} has a regular expression in {key}.", "Name the modules there.")
    return {k: _number(name, key, value, least, most) for k, value in table.items()}


def _named(key: str, module: str) -> bool:
    """Whether a key of a pattern means this module: all of its name, or the end of it."""
    return module == key.removeprefix("^") or module.endswith(f".{key}")


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# -- the header of the weights ----------------------------------------------------------


def _layers(
    name: str, config: _Config, header: Mapping[str, Mapping[str, Any]]
) -> dict[str, AdapterLayer]:
    found: dict[str, dict[str, str]] = {}
    embeddings: set[str] = set()
    for key, tensor in header.items():
        match = _TENSOR.fullmatch(key)
        if match is None or tensor["dtype"] not in _DTYPES:
            raise AdapterError(f"{name} has a tensor {_shown(key)} that no LoRA has.", _PLAIN)
        part = _PARTS.get(match["part"] or "", "weight")
        if (match["part"] or "").startswith("lora_embedding"):
            embeddings.add(match["module"])
        if found.setdefault(match["module"], {}).setdefault(part, key) != key:
            raise AdapterError(f"{name} has {_shown(key)} twice.", _AGAIN)
    if not any("a" in tensors for tensors in found.values()):
        raise AdapterError(f"{name} has no LoRA tensors.", _AGAIN)
    return {
        module: _layer(name, config, module, tensors, header, module in embeddings)
        for module, tensors in found.items()
    }


def _layer(
    name: str,
    config: _Config,
    module: str,
    tensors: dict[str, str],
    header: Mapping[str, Mapping[str, Any]],
    embedding: bool,
) -> AdapterLayer:
    shapes = {part: tuple(header[key]["shape"]) for part, key in tensors.items()}
    if len(shapes.get("weight", (0, 0))) != 2:
        raise AdapterError(
            f"{name} replaces {module}; Lantern replaces embeddings and heads alone.", _PLAIN
        )
    if set(shapes) == {"weight"}:
        return AdapterLayer(tensors, shapes, embedding, 1.0)
    _require({"a", "b"} <= set(shapes), name, module)
    a, b = shapes["a"], shapes["b"]
    _require(len(a) == len(b) == 2 and a[0] == b[1], name, module)
    if a[0] not in config.ranks:
        ranks = " or ".join(f"{rank:,}" for rank in sorted(config.ranks)[:3])
        raise AdapterError(f"{name} says rank {ranks}, and its {module} has rank {a[0]:,}.", _AGAIN)
    if config.kind == "DoRA" and embedding:
        raise AdapterError(f"{name} is DoRA over the embedding, which is not supported.", _PLAIN)
    _require(("magnitude" in shapes) == (config.kind == "DoRA"), name, module)
    _require(shapes.get("magnitude", (b[0],)) == (b[0],), name, module)
    return AdapterLayer(tensors, shapes, embedding, config.scaling(module, a[0]))


def _require(fits: bool, name: str, module: str) -> None:
    if not fits:
        raise AdapterError(f"The tensors of {name} for {module} do not fit together.", _AGAIN)
