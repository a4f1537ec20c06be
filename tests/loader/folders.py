"""Checkpoint folders as tests need them: small, damaged, hostile, or large and empty."""

from __future__ import annotations

import io
import json
import math
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "max_position_embeddings": 2048,
}
HEADER: dict[str, Any] = {"weight": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}}
BITS = {"BF16": 16, "F16": 16, "F32": 32, "I32": 32, "U8": 8, "I8": 8, "F8_E4M3": 8}
Shapes = Mapping[str, tuple[str, tuple[int, ...]]]
"""The dtype and the shape of each tensor."""


def safetensors(header: Any = HEADER, data: bytes = bytes(12)) -> bytes:
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def make_model(models: Path, name: str = "Tiny", /, **files: Any) -> Path:
    """A folder with all that a model needs; `files` replaces some (`__` stands for a dot)."""
    folder = models / name
    folder.mkdir(parents=True)
    contents: dict[str, Any] = {
        "config__json": CONFIG,
        "tokenizer__json": "{}",
        "model__safetensors": safetensors(),
    }
    for key, content in (contents | files).items():
        if content is None:
            continue
        if isinstance(content, dict):
            content = json.dumps(content)
        data = content.encode() if isinstance(content, str) else content
        (folder / key.replace("__", ".")).write_bytes(data)
    return folder


def write_tensors(file: Path, shapes: Shapes) -> None:
    """A file with a real header and a hole where its tensors would be."""
    header, end = {}, 0
    for name, (dtype, shape) in shapes.items():
        size = math.prod(shape) * BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    content = safetensors(header, b"")
    with file.open("wb") as stream:
        stream.write(content)
        stream.truncate(len(content) + end)


def make_packed_model(models: Path, shapes: Shapes, /, **files: Any) -> Path:
    """A folder whose one weight file holds `shapes`."""
    folder = make_model(models, **files)
    write_tensors(folder / "model.safetensors", shapes)
    return folder


def gptq(bits: int = 4, group_size: int = 128, *, size: tuple[int, int] = (256, 512)) -> Shapes:
    """A layer of `size` (in, out) as GPTQ packs it, and a norm beside it."""
    inputs, outputs = size
    groups = 1 if group_size == -1 else math.ceil(inputs / group_size)
    return {
        "model.norm.weight": ("F16", (inputs,)),
        "model.layers.0.mlp.up_proj.qweight": ("I32", (inputs * bits // 32, outputs)),
        "model.layers.0.mlp.up_proj.qzeros": ("I32", (groups, outputs * bits // 32)),
        "model.layers.0.mlp.up_proj.scales": ("F16", (groups, outputs)),
        "model.layers.0.mlp.up_proj.g_idx": ("I32", (inputs,)),
    }


def awq(bits: int = 4, group_size: int = 128, *, size: tuple[int, int] = (256, 512)) -> Shapes:
    """The same as AWQ packs it."""
    inputs, outputs = size
    groups, columns = math.ceil(inputs / group_size), outputs * bits // 32
    return {
        "model.norm.weight": ("F16", (inputs,)),
        "model.layers.0.mlp.up_proj.qweight": ("I32", (inputs, columns)),
        "model.layers.0.mlp.up_proj.qzeros": ("I32", (groups, columns)),
        "model.layers.0.mlp.up_proj.scales": ("F16", (groups, outputs)),
    }


class Canary:
    """Its pickle makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def pickles(canary: Path) -> dict[str, bytes]:
    made = {f"protocol {p}": pickle.dumps(Canary(canary), protocol=p) for p in range(6)}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", made["protocol 2"])
    return made | {
        "zip": archive.getvalue(),
        "dict": pickle.dumps({"a": Canary(canary)}, protocol=0),
        "list": pickle.dumps([Canary(canary)], protocol=1),
        "before safetensors": made["protocol 4"] + safetensors(),
        "before safetensors, in text": made["protocol 0"] + safetensors(),
        "zip before safetensors": archive.getvalue() + safetensors(),
    }
