"""A LoRA merged into its base: whole 16-bit weights, written tensor by tensor.

Never more is in memory than one tensor of the base and what a LoRA makes of it, so that a model
is merged on a machine that could not load it.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

from modules.errors import AdapterError
from modules.loader.adapter_base import BaseLayer, check_fit
from modules.loader.adapters import AdapterCheck, AdapterLayer
from modules.loader.inspect import Inspection
from modules.loader.quantization.checkpoints import STORED, from_stored
from modules.loader.quantization.linear import QuantizedLinear
from modules.loader.quantization.shapes import is_helper

__all__ = ["Merged", "merge"]

SHARD_BYTES = 5 * 10**9
_INDEX = "model.safetensors.index.json"
_DTYPES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
_EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings")
_HEAD = "lm_head"
_CONV1D = {"gpt2", "openai-gpt", "imagegpt"}
"""Families whose weights lie in their files as [in, out]."""


@dataclass(frozen=True, slots=True)
class Merged:
    """What was written: the files, and whether the head has a weight of its own now."""

    files: tuple[str, ...]
    size_bytes: int
    untied: bool


@dataclass(frozen=True, slots=True)
class _Piece:
    """One tensor of the result; `module` is whose it is in the base, `place` whose it becomes."""

    name: str
    shape: tuple[int, ...]
    module: str
    place: str

    @property
    def is_weight(self) -> bool:
        return self.name.endswith(".weight")

    def nbytes(self, dtype: torch.dtype) -> int:
        return math.prod(self.shape) * dtype.itemsize


def merge(
    base: Inspection,
    adapter: AdapterCheck,
    output: Path,
    dtype: torch.dtype,
    progress: Callable[[str, float], None] = lambda stage, fraction: None,
    shard_bytes: int = SHARD_BYTES,
) -> Merged:
    """Write the merged safetensors into the folder `output`, in files of at most `shard_bytes`.

    Raises AdapterError where the LoRA does not fit the base, and OSError for a full disk.
    """
    check_fit(adapter, base.name, _layers(base))
    untied = base.tied_head and any(_is_tied(name) for name in adapter.layers)
    pieces = list(_pieces(base, untied=untied))
    shards = list(_shards(pieces, dtype, shard_bytes))
    names = _file_names(len(shards))
    done, total = 0, len(pieces)
    with contextlib.ExitStack() as stack:
        source = _Source(base, adapter, stack)
        for name, shard in zip(names, shards, strict=True):
            with (output / name).open("wb") as file:
                _write_header(file, shard, dtype)
                for piece in shard:
                    file.write(_raw(source.merged(piece).to(dtype)))
                    done += 1
                    progress(f"Merging {piece.place}", done / total)
    size = sum(piece.nbytes(dtype) for piece in pieces)
    if len(shards) > 1:
        _write_index(output, names, shards, size)
    return Merged(tuple(names), size, untied)


def _is_tied(name: str) -> bool:
    return name == _HEAD or name.rpartition(".")[2] in _EMBEDDINGS


# -- what there is ----------------------------------------------------------------------


def _pieces(base: Inspection, *, untied: bool) -> Iterator[_Piece]:
    """The tensors of the result in the order of the base's."""
    sizes = {name: (layer.outputs, layer.inputs) for name, layer in _layers(base).items()}
    for name, tensor in base.tensors.items():
        module, _, part = name.rpartition(".")
        if is_helper(name) or part == "inv_freq" or (base.tied_head and module == _HEAD):
            continue
        if part == "qweight":
            yield _Piece(f"{module}.weight", sizes[module], module, module)
            continue
        yield _Piece(name, tensor.shape, module, module)
        if untied and module.rpartition(".")[2] in _EMBEDDINGS:
            yield _Piece(f"{_HEAD}.weight", tensor.shape, module, _HEAD)


def _layers(base: Inspection) -> dict[str, BaseLayer]:
    """What an adapter may change, by the name of its module."""
    found = {}
    for name, tensor in base.tensors.items():
        module, _, part = name.rpartition(".")
        if len(tensor.shape) != 2 or part not in ("weight", "qweight"):
            continue
        first, second = tensor.shape
        if part == "qweight":
            found[module] = _packed_layer(base, first, second)
        elif module.rpartition(".")[2] in _EMBEDDINGS:
            found[module] = BaseLayer(first, second, embedding=True)
            if base.tied_head:
                found[_HEAD] = BaseLayer(second, first, head=True)
        elif base.model_type in _CONV1D and module != _HEAD:
            found[module] = BaseLayer(first, second)
        else:
            found[module] = BaseLayer(second, first, head=module == _HEAD)
    return found


def _packed_layer(base: Inspection, first: int, second: int) -> BaseLayer:
    form = base.quantization
    if form is None or not form.readable:
        raise AdapterError(
            f"{base.name} is quantized in a way that no LoRA can be merged into.",
            "Merge into its 16-bit original, with --base.",
        )
    if form.method == "awq":
        return BaseLayer(first, second * 32 // form.bits)
    return BaseLayer(first * 32 // form.bits, second)


class _Source:
    """The base and the adapter on the disk."""

    def __init__(
        self, base: Inspection, adapter: AdapterCheck, stack: contextlib.ExitStack
    ) -> None:
        self._base, self._adapter = base, adapter
        self._files: dict[Path, Any] = {}
        self._stack = stack

    def merged(self, piece: _Piece) -> Tensor:
        """The tensor of the result, in whatever it was computed in."""
        own = self._own(piece)
        layer = self._adapter.layers.get(piece.place) if piece.is_weight else None
        return own if layer is None else self._changed(own, layer)

    def _own(self, piece: _Piece) -> Tensor:
        """That of the base."""
        if f"{piece.module}.qweight" in self._base.tensors and piece.is_weight:
            return self._dequantized(piece)
        name = f"{piece.module}.{piece.name.rpartition('.')[2]}" if piece.module else piece.name
        return self._tensor(name)

    def _dequantized(self, piece: _Piece) -> Tensor:
        form, (outputs, inputs) = self._base.quantization, piece.shape
        assert form is not None
        names = {part: f"{piece.module}.{part}" for part in STORED}
        tensors = {p: self._tensor(n) for p, n in names.items() if n in self._base.tensors}
        packed = from_stored(tensors, form, inputs, piece.module)
        with torch.device("meta"):
            layer = QuantizedLinear(inputs, outputs, bits=form.bits, group_size=form.group_size)
        for part in ("weight", "scales", "zeros", "perm"):
            tensor = getattr(packed, part)
            value = None if tensor is None else torch.nn.Parameter(tensor, requires_grad=False)
            setattr(layer, part, value)
        weight: Tensor = layer.dequantize(torch.float32)
        return weight

    def _changed(self, own: Tensor, layer: AdapterLayer) -> Tensor:
        """W with the LoRA in it, in float32.

        LoRA: W + s B A (arxiv.org/abs/2106.09685). DoRA: each row of that brought to its trained
        length (2402.09353). A whole weight takes the place of the base's before.
        """
        parts = {part: self._adapter_tensor(key) for part, key in layer.tensors.items()}
        weight: Tensor = parts.get("weight", own).float()
        if not layer.rank:
            return weight
        change: Tensor = layer.scaling * (parts["b"].float() @ parts["a"].float())
        transposed = layer.embedding or self._base.model_type in _CONV1D
        if transposed:
            change = change.T
        weight = weight + change
        if "magnitude" not in parts:
            return weight
        lengths = weight.norm(dim=0 if transposed else 1, keepdim=True)
        magnitude = parts["magnitude"].float()
        scaled: Tensor = weight * magnitude.view(lengths.shape) / lengths
        return scaled

    def _tensor(self, name: str) -> Tensor:
        file = self._open(self._base.path / self._base.tensors[name].file)
        tensor: Tensor = file.get_tensor(name)
        return tensor

    def _adapter_tensor(self, key: str) -> Tensor:
        tensor: Tensor = self._open(self._adapter.weights).get_tensor(key)
        return tensor

    def _open(self, path: Path) -> Any:
        if path not in self._files:
            self._files[path] = self._stack.enter_context(safe_open(path, framework="pt"))
        return self._files[path]


# -- safetensors ------------------------------------------------------------------------


def _shards(
    pieces: Iterable[_Piece], dtype: torch.dtype, shard_bytes: int
) -> Iterator[list[_Piece]]:
    shard: list[_Piece] = []
    size = 0
    for piece in pieces:
        if shard and size + piece.nbytes(dtype) > shard_bytes:
            yield shard
            shard, size = [], 0
        shard.append(piece)
        size += piece.nbytes(dtype)
    yield shard


def _file_names(count: int) -> list[str]:
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]


def _write_header(file: BinaryIO, shard: Sequence[_Piece], dtype: torch.dtype) -> None:
    """As the format has it (github.com/huggingface/safetensors): the tensors follow in order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for piece in shard:
        first, end = end, end + piece.nbytes(dtype)
        header[piece.name] = {
            "dtype": _DTYPES[dtype],
            "shape": list(piece.shape),
            "data_offsets": [first, end],
        }
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    file.write(len(raw).to_bytes(8, "little") + raw)


def _raw(tensor: Tensor) -> Any:
    """The bytes of a tensor, as a file takes them; not copied."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy().data


def _write_index(
    output: Path, names: Sequence[str], shards: Sequence[Sequence[_Piece]], size: int
) -> None:
    weight_map: Mapping[str, str] = {
        piece.name: name for name, shard in zip(names, shards, strict=True) for piece in shard
    }
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (output / _INDEX).write_text(json.dumps(index, indent=2), "utf-8")
