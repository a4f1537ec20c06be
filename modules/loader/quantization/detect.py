"""Which quantization a checkpoint has: what its files say, a flag says, or its shapes tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.errors import NotAModelError
from modules.loader.json_files import AGAIN, read_object
from modules.loader.options import LoadOptions
from modules.loader.quantization.format import QuantizationFormat, parse_settings
from modules.loader.quantization.shapes import (
    check_layers,
    infer_group_size,
    layout,
    packed_layers,
)
from modules.loader.weights import TensorInfo

__all__ = ["Quantization", "check_quantization", "find_quantization"]

_GPTQMODEL_READS = {"gptq", "awq", "qqq"}
_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
_FLAGS = "--wbits and --groupsize"
_OTHERS = "Get a GPTQ, AWQ or 16-bit version of the model."


@dataclass(frozen=True, slots=True)
class Quantization:
    """A format, the file (or flags, or shapes) that told it, and a sentence if it was guessed."""

    form: QuantizationFormat
    source: str
    note: str = ""


def find_quantization(
    path: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, TensorInfo],
    options: LoadOptions,
) -> Quantization | None:
    """The quantization of the checkpoint in `path`, or None for a plain one.

    `--wbits` and `--groupsize` count only where no file says anything. Raises NotAModelError
    where a file says what cannot be, or where nothing tells how the weights are packed.
    """
    for source, settings, method in _settings(path, config):
        try:
            return Quantization(parse_settings(settings, method), source)
        except ValueError as error:
            raise NotAModelError(
                f"{path.name}/{source} describes its quantization wrongly: {error}.", AGAIN
            ) from error
    if any(name.endswith(".qweight") for name in tensors):
        return _without_settings(path, tensors, options)
    return None


def _settings(path: Path, config: Mapping[str, Any]) -> list[tuple[str, dict[str, Any], str]]:
    """Where settings lie, the newest place first: file, content, and the method it implies."""
    found = [
        ("config.json", config[key], "")
        for key in ("quantization_config", "compression_config")
        if isinstance(config.get(key), dict)
    ]
    return found or [
        (name, read_object(path / name), method)
        for name, method in _FILES.items()
        if (path / name).is_file()
    ]


def _without_settings(
    path: Path, tensors: Mapping[str, TensorInfo], options: LoadOptions
) -> Quantization:
    try:
        layers = packed_layers(tensors, "gptq")
    except ValueError as error:
        raise NotAModelError(
            f"{path.name} carries no quantization settings, and {error} is not packed as GPTQ "
            "packs it.",
            _OTHERS,
        ) from error
    bits = options.wbits or layers[0].bits
    group_size = options.groupsize if options.groupsize > 0 else infer_group_size(layers)
    if not group_size:
        raise NotAModelError(
            f"{path.name} carries no quantization settings, and the shapes of its tensors do "
            "not tell its group size.",
            "Give --wbits and --groupsize as the model's page names them.",
        )
    form = QuantizationFormat(
        method="gptq",
        bits=bits,
        group_size=group_size,
        act_order=any(name.endswith(".g_idx") for name in tensors),
        version="v1",
    )
    if options.wbits or options.groupsize > 0:
        return Quantization(form, _FLAGS)
    return Quantization(
        form,
        _FLAGS,
        f"No file of {path.name} tells its quantization; its shapes say GPTQ with "
        f"{layout(bits, group_size)}.",
    )


def check_quantization(
    path: Path, found: Quantization, tensors: Mapping[str, TensorInfo], options: LoadOptions
) -> None:
    """Raise NotAModelError where it cannot be read, or is not what the weights hold."""
    form = found.form
    if options.loader == "gptqmodel" and form.method in _GPTQMODEL_READS:
        return
    if not form.readable:
        way = (
            "Load it with --loader gptqmodel, or get" if form.method in _GPTQMODEL_READS else "Get"
        )
        raise NotAModelError(
            f"{path.name} is quantized with {_described(form)}, which Lantern does not read.",
            f"{way}{_OTHERS.removeprefix('Get')}",
        )
    if not any(name.endswith(".qweight") for name in tensors):
        raise NotAModelError(
            f"{path.name}/{found.source} speaks of {form.method.upper()}, but no weight is packed.",
            "Download the model's folder again, with all of its files.",
        )
    try:
        layers = packed_layers(tensors, form.method)
    except ValueError as error:
        raise NotAModelError(
            f"{path.name} says that it is {form.method.upper()}, but {error} is not packed so.",
            "Download the model's folder again, with all of its files.",
        ) from error
    try:
        check_layers(layers, form)
    except ValueError as error:
        says = "say" if found.source == _FLAGS else "says"
        raise NotAModelError(
            f"{found.source} of {path.name} {says} {layout(form.bits, form.group_size)}, "
            f"but {error}.",
            f"Correct {found.source}, or download the model's folder again.",
        ) from error


def _described(form: QuantizationFormat) -> str:
    """For a sentence: "gptq (4 bits, marlin)"."""
    parts = [f"{form.bits} bits"] if form.bits else []
    parts += [form.version] if form.version else []
    return form.method + (f" ({', '.join(parts)})" if parts else "")
