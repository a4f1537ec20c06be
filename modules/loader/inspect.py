"""What a checkpoint is, from its small files and headers: `python -m modules.loader.inspect DIR`.

Never a tensor is read, so that a folder of 70 billion parameters takes less than a second.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.errors import (
    LanternError,
    ModelError,
    ModelNotFoundError,
    NotAModelError,
    UnsafeModelError,
)
from modules.loader.gguf_header import GgufHeader, read_gguf_header
from modules.loader.json_files import AGAIN, config_files, read_object, refuse_code
from modules.loader.model_config import ModelConfig, config_from_gguf, config_from_json
from modules.loader.options import LoadOptions
from modules.loader.quantization.detect import (
    Quantization,
    check_quantization,
    find_quantization,
)
from modules.loader.quantization.format import QuantizationFormat
from modules.loader.quantization.shapes import count_parameters, is_helper
from modules.loader.weight_files import find_weights
from modules.loader.weights import TensorInfo, read_safetensors_header

__all__ = ["Inspection", "TensorInfo", "inspect_checkpoint"]

_TOKENIZERS = (
    ("tokenizer.json",),
    ("tokenizer.model",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("spiece.model",),
)
_TEMPLATES = ("chat_template.jinja", "chat_template.json")
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_HEADS = ("lm_head.", "output.weight", "embed_out.")


@dataclass(frozen=True, slots=True)
class Inspection:
    """A checkpoint. Numbers that its config.json does not tell are 0.

    `parameters` counts weights as they were before quantization; `dtype` is that of the
    unquantized tensors ("float16"). `weights` are the files to load, and `size_bytes` is
    theirs; `files` are the sizes of all files. `problem` and `remedy` are sentences, empty
    where the checkpoint can be loaded; `safe` is false where loading it would run code of
    its own. `note` is a sentence about what was guessed. `template_source` is the file that
    holds the chat template, or empty. `window` are the tokens that attention looks back on, 0
    where that is the whole text.
    """

    name: str
    path: Path
    architecture: str
    model_type: str
    parameters: int
    dtype: str
    quantization: QuantizationFormat | None
    context_length: int
    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied_head: bool
    template_source: str
    weights: tuple[Path, ...]
    size_bytes: int
    files: Mapping[str, int]
    tensors: Mapping[str, TensorInfo]
    safe: bool = True
    problem: str = ""
    remedy: str = ""
    note: str = ""
    window: int = 0


def inspect_checkpoint(path: Path, options: LoadOptions | None = None) -> Inspection:
    """Read everything about the folder `path` that can be known without its tensors.

    `options` may tell the bits and the group size of an old checkpoint, and the loader. What
    is wrong with the folder becomes its `problem`; raises ModelNotFoundError where there is
    no such folder.
    """
    if not path.is_dir():
        raise ModelNotFoundError(f"There is no folder {path}.", "Choose one in models/.")
    return _Inspector(path, options or LoadOptions()).inspect()


class _Inspector:
    """One look at a folder; what a step cannot read is empty for the steps that follow."""

    def __init__(self, path: Path, options: LoadOptions) -> None:
        self._path = path
        self._options = options
        self._error: ModelError | None = None
        self._settings: dict[str, Any] = {}
        self._config = ModelConfig()
        self._weights: tuple[Path, ...] = ()
        self._gguf: GgufHeader | None = None
        self._tensors: dict[str, TensorInfo] = {}
        self._quantization: Quantization | None = None
        self._files: dict[str, int] = {}
        self._template = ""

    def inspect(self) -> Inspection:
        with self._noting():
            self._settings = _read_config(self._path)
            self._config = config_from_json(self._settings)
        self._refuse_code()
        with self._noting():
            self._weights = find_weights(self._path, self._config.layers)
        self._read_headers()
        with self._noting():
            self._check_tokenizer()
        with self._noting():
            self._check_architecture()
        with self._noting():
            self._find_quantization()
        with self._noting():
            self._files = _sizes(self._path)
            self._template = self._template_source()
        return self._inspection()

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """Keep the first problem, unless one comes that is about safety."""
        try:
            yield
        except OSError as error:
            self._note(
                NotAModelError(
                    f"{self._path.name} cannot be read: {error.strerror}.",
                    "Make the folder and its files readable.",
                )
            )
        except ModelError as error:
            self._note(error)

    def _note(self, error: ModelError) -> None:
        graver = isinstance(error, UnsafeModelError) and self._is_safe()
        if self._error is None or graver:
            self._error = error

    def _is_safe(self) -> bool:
        return not isinstance(self._error, UnsafeModelError)

    def _refuse_code(self) -> None:
        files: list[Path] = []
        with self._noting():
            files = config_files(self._path)
        for file in files:
            with self._noting():
                refuse_code(file)

    def _read_headers(self) -> None:
        for file in self._weights:
            with self._noting():
                if file.suffix == ".gguf":
                    self._gguf = read_gguf_header(file)
                    self._config = config_from_gguf(self._gguf)
                    self._tensors.update(self._gguf.tensors)
                else:
                    header = read_safetensors_header(file)
                    self._tensors.update(
                        (name, _tensor_info(entry, file)) for name, entry in header.items()
                    )

    def _check_tokenizer(self) -> None:
        there = any(all((self._path / name).is_file() for name in names) for names in _TOKENIZERS)
        inside = self._gguf is not None and "tokenizer.ggml.tokens" in self._gguf.lengths
        if not there and not inside:
            raise NotAModelError(
                f"{self._path.name} has no tokenizer.",
                "Copy tokenizer.json (or tokenizer.model) from the model's page into the folder.",
            )

    def _check_architecture(self) -> None:
        if not self._config.model_type or not self._config.architecture:
            file = "config.json" if self._gguf is None else self._weights[0].name
            raise NotAModelError(f"{self._path.name}/{file} names no architecture.", AGAIN)

    def _find_quantization(self) -> None:
        if self._gguf is not None:
            self._quantization = _gguf_quantization(self._tensors)
            return
        self._quantization = find_quantization(
            self._path, self._settings, self._tensors, self._options
        )
        if self._quantization is not None:
            check_quantization(self._path, self._quantization, self._tensors, self._options)

    def _template_source(self) -> str:
        """The file that holds the chat template, in the order in which transformers looks."""
        for name in _TEMPLATES:
            if (self._path / name).is_file():
                return name
        file = self._path / "tokenizer_config.json"
        if file.is_file() and read_object(file).get("chat_template"):
            return file.name
        inside = self._gguf is not None and "tokenizer.chat_template" in self._gguf.values
        return self._weights[0].name if inside else ""

    def _inspection(self) -> Inspection:
        config = dataclasses.asdict(self._config)
        config["dtype"] = _dtype(self._tensors) or config["dtype"]
        if config["tied_head"] is None:
            config["tied_head"] = not any(name.startswith(_HEADS) for name in self._tensors)
        found = self._quantization
        form = found.form if found else None
        return Inspection(
            **config,
            name=self._path.name,
            path=self._path,
            parameters=count_parameters(self._tensors, form),
            quantization=form,
            template_source=self._template,
            weights=self._weights,
            size_bytes=sum(self._files.get(file.name, 0) for file in self._weights),
            files=self._files,
            tensors=self._tensors,
            safe=self._is_safe(),
            problem=self._error.message if self._error else "",
            remedy=self._error.remedy if self._error else "",
            note=found.note if found else "",
        )


def _read_config(path: Path) -> dict[str, Any]:
    if (path / "adapter_config.json").is_file():  # transformers would load its base instead
        raise NotAModelError(
            f"{path.name} is a LoRA adapter, not a model.",
            "Move it into loras/, or delete adapter_config.json if it is merged into the model.",
        )
    if (path / "config.json").is_file():
        return read_object(path / "config.json")
    if any(path.glob("*.gguf")):  # which holds its own
        return {}
    raise NotAModelError(
        f"{path.name} has no config.json.",
        "Download the model's folder again, with all of its files.",
    )


def _tensor_info(entry: Mapping[str, Any], file: Path) -> TensorInfo:
    first, last = entry["data_offsets"]
    return TensorInfo(entry["dtype"], tuple(entry["shape"]), last - first, file.name)


def _gguf_quantization(tensors: Mapping[str, TensorInfo]) -> Quantization | None:
    """What most weights of a GGUF file are stored as, unless that is a plain number."""
    kind = _commonest(tensors)
    if kind in _DTYPES or not kind:
        return None
    bits = next((int(letter) for letter in kind if letter.isdigit()), 0)
    return Quantization(QuantizationFormat("gguf", bits, -1, version=kind), "the GGUF file")


def _dtype(tensors: Mapping[str, TensorInfo]) -> str:
    """What most of the weights that are no part of a quantized layer are stored as."""
    plain = {
        name: tensor
        for name, tensor in tensors.items()
        if tensor.dtype in _DTYPES and not is_helper(name)
    }
    return _DTYPES.get(_commonest(plain), "")


def _commonest(tensors: Mapping[str, TensorInfo]) -> str:
    weights: Counter[str] = Counter()
    for tensor in tensors.values():
        weights[tensor.dtype] += math.prod(tensor.shape)
    return max(weights, key=lambda kind: weights[kind], default="")


def _sizes(path: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in sorted(path.iterdir()) if file.is_file()}


# -- the command ------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Print the inspection of a folder as JSON. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m modules.loader.inspect",
        description="Say what a checkpoint is, from its small files and headers.",
    )
    parser.add_argument("dir", type=Path, metavar="DIR", help="Folder of the checkpoint.")
    parser.add_argument("--wbits", type=int, default=0, metavar="N", help="Bits of an old GPTQ.")
    parser.add_argument("--groupsize", type=int, default=-1, metavar="N", help="Its group size.")
    parser.add_argument("--tensors", action="store_true", help="List each tensor as well.")
    flags = parser.parse_args(argv)
    try:
        options = LoadOptions(wbits=flags.wbits, groupsize=flags.groupsize)
        inspection = inspect_checkpoint(flags.dir.resolve(), options)
    except LanternError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    shown = dataclasses.asdict(inspection)
    if not flags.tensors:
        del shown["tensors"]
    sys.stdout.write(json.dumps(shown, indent=2, default=str) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
