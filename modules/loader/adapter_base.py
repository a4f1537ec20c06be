"""An adapter and its base: whether it is the model of the training, and whether the sizes fit."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modules.errors import AdapterError

if TYPE_CHECKING:
    from modules.loader.adapters import AdapterCheck, AdapterLayer

__all__ = ["BaseLayer", "base_fingerprint", "base_warning", "check_fit"]

_HEAD_BYTES = 2**20
# What the names of one model's versions on the disk differ by.
_FORMATS = re.compile(
    r"hf|gptq|awq|gguf|bnb|main|true|false|actorder|safetensors|model"
    r"|\d+bits?|int\d|fp\d+|bf16|\d+g"
)


@dataclass(frozen=True, slots=True)
class BaseLayer:
    """A module of the base that an adapter may change.

    An embedding has the vocabulary as its inputs; the `head` has it as its outputs.
    """

    inputs: int
    outputs: int
    embedding: bool = False
    head: bool = False


def base_fingerprint(folder: Path) -> str:
    """A sha256, in hex, that tells one base from another at the cost of a single read.

    Over the header and the first MiB of tensors in the first safetensors file, because a
    fine-tune has the same header as its base. Empty where the folder has no such file.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return ""
    with files[0].open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        beginning = stream.read(min(length, 100 * _HEAD_BYTES) + _HEAD_BYTES)
    return hashlib.sha256(beginning).hexdigest()


def base_warning(base: Path, trained_on: str, sha256: str) -> str:
    """A sentence where the model in `base` is not the one of the training; else nothing.

    `sha256` is the fingerprint that the adapter recorded, or empty; without one, the names
    decide.
    """
    if sha256:
        if sha256 == base_fingerprint(base):
            return ""
        other = f" ({trained_on})" if trained_on else ""
        return f"It was trained on other weights{other} than those of {base.name}."
    if not trained_on or _same_model(trained_on, base.name):
        return ""
    return f"It was trained on {trained_on}, and {base.name} is loaded."


def _same_model(trained_on: str, folder: str) -> bool:
    """Whether two names mean one model: TheBloke_Llama-2-7B-GPTQ is meta-llama/Llama-2-7b-hf."""
    wanted, words = _words(re.split(r"[/\\]", trained_on.rstrip("/\\"))[-1]), _words(folder)
    return not wanted or words[-len(wanted) :] == wanted


def _words(name: str) -> list[str]:
    words = re.findall(r"[a-z0-9]+", name.lower())
    return [word for word in words if not _FORMATS.fullmatch(word)]


def check_fit(check: AdapterCheck, base: str, modules: Mapping[str, BaseLayer]) -> None:
    """Raise AdapterError where an adapter was made for a model of other layers or sizes.

    `modules` are those of the model called `base`, by name.
    """
    remedy = f"Load the model that it was trained on{f', {check.base}' if check.base else ''}."
    missing = [
        name
        for name, layer in check.layers.items()
        if name not in modules or (layer.rank and layer.embedding != modules[name].embedding)
    ]
    if missing:
        layers = f"{len(missing):,} layers" if len(missing) > 1 else "a layer"
        raise AdapterError(
            f"{check.name} changes {layers} that {base} does not have: {missing[0][:100]}.", remedy
        )
    for name, layer in check.layers.items():
        misfit = _misfit(layer, modules[name])
        if misfit is None:
            continue
        what, wanted, found = misfit
        if what == "vocabulary":
            raise AdapterError(
                f"{check.name} was made for a vocabulary of {wanted:,} tokens, "
                f"and {base} has {found:,}.",
                remedy,
            )
        raise AdapterError(
            f"{check.name} was made for a model of another size: its {name[:100]} has "
            f"{wanted:,} {what}, and that of {base} has {found:,}.",
            remedy,
        )


def _misfit(layer: AdapterLayer, base: BaseLayer) -> tuple[str, int, int] | None:
    """What does not fit, how many the adapter has of it, and how many the base has."""
    for inputs, outputs in _sizes(layer, base):
        if inputs != base.inputs:
            return ("vocabulary" if base.embedding else "inputs", inputs, base.inputs)
        if outputs != base.outputs:
            return ("vocabulary" if base.head else "outputs", outputs, base.outputs)
    return None


def _sizes(layer: AdapterLayer, base: BaseLayer) -> list[tuple[int, int]]:
    """Inputs and outputs by each of the layer's tensors that tells them."""
    sizes = []
    if layer.rank:
        sizes.append((layer.shapes["a"][1], layer.shapes["b"][0]))
    if "weight" in layer.shapes:
        rows, columns = layer.shapes["weight"]
        sizes.append((rows, columns) if base.embedding else (columns, rows))
    return sizes
