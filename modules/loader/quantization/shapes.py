"""What the shapes of packed tensors say about a quantization: bits, groups, and parameters.

Headers only. GPTQ packs along the input: `qweight` [in * bits / 32, out], `qzeros`
[groups, out * bits / 32], `scales` [groups, out], `g_idx` [in]. AWQ packs along the output:
`qweight` [in, out * bits / 32], and the others as GPTQ.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from modules.loader.quantization.format import QuantizationFormat
from modules.loader.weights import TensorInfo

__all__ = [
    "PackedLayer",
    "check_layers",
    "count_parameters",
    "infer_group_size",
    "is_helper",
    "layout",
    "packed_layers",
]

_GROUP_SIZES = (16, 32, 64, 128, 256, 512, 1024, 2048)
_COUNTABLE = {"gptq", "awq", "gguf", "bitsandbytes", "fp8", "fbgemm_fp8"}
_HELPERS = (
    *(".qzeros", ".scales", ".g_idx"),  # GPTQ and AWQ
    *(".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".SCB", ".weight_format"),
    *("_scale", "_scale_inv", "_zero_point", ".weight_shape"),  # FP8 and compressed-tensors
)


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """One linear layer, as its tensors must have been packed to have their shapes."""

    name: str
    bits: int
    in_features: int
    out_features: int
    groups: int


def packed_layers(tensors: Mapping[str, TensorInfo], method: str) -> list[PackedLayer]:
    """The layers that have a `qweight`. `method` is "gptq" or "awq".

    Raises ValueError naming a layer whose shapes no such packing gives.
    """
    names = (name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight"))
    return [_packed_layer(tensors, name, method) for name in names]


def _packed_layer(tensors: Mapping[str, TensorInfo], name: str, method: str) -> PackedLayer:
    parts = [tensors.get(f"{name}.{part}") for part in ("qweight", "qzeros", "scales")]
    weight, zeros, scales = (part.shape if part else () for part in parts)
    packed = parts[0] is not None and parts[1] is not None and {parts[0].dtype, parts[1].dtype}
    if packed == {"I32"} and len(weight) == len(zeros) == len(scales) == 2 and all(scales):
        groups, outputs = scales
        bits, odd = divmod(zeros[1] * 32, outputs)
        rows, columns = weight
        inputs = rows if method == "awq" else rows * 32 // max(bits, 1)
        order = tensors.get(f"{name}.g_idx")
        fits = (
            not odd
            and 0 < bits <= 16
            and zeros[0] == groups
            and columns == (zeros[1] if method == "awq" else outputs)
            and (method == "awq" or inputs * bits == rows * 32)
            and (order is None or order.shape == (inputs,))
        )
        if fits:
            return PackedLayer(name, bits, inputs, outputs, groups)
    raise ValueError(name)


def infer_group_size(layers: Iterable[PackedLayer]) -> int:
    """The group size, -1 for one group a row, 0 where no usual one fits every layer."""
    sizes = [(layer.in_features, layer.groups) for layer in layers]
    if all(groups == 1 for _, groups in sizes):
        return -1
    for size in _GROUP_SIZES:
        if all(math.ceil(inputs / size) == groups for inputs, groups in sizes):
            return size
    return 0


def check_layers(layers: Iterable[PackedLayer], form: QuantizationFormat) -> None:
    """Raise ValueError, saying how it is stored, for a layer that is not stored as `form` says."""
    for layer in layers:
        size = layer.in_features if form.group_size == -1 else form.group_size
        if layer.bits != form.bits or layer.groups != math.ceil(layer.in_features / size):
            per_group = math.ceil(layer.in_features / layer.groups) if layer.groups > 1 else -1
            raise ValueError(f"{layer.name} is stored with {layout(layer.bits, per_group)}")


def layout(bits: int, group_size: int) -> str:
    """For a sentence: "4 bits and groups of 128"."""
    return f"{bits} bits and {'one group a row' if group_size == -1 else f'groups of {group_size}'}"


def is_helper(name: str) -> bool:
    """Whether a tensor of a quantized checkpoint only says how another is to be read."""
    return name.endswith(_HELPERS) or ".quant_state." in name


def count_parameters(tensors: Mapping[str, TensorInfo], form: QuantizationFormat | None) -> int:
    """Weights before quantization; 0 for a method whose packing is not known here."""
    if form is not None and form.method not in _COUNTABLE:
        return 0
    total = 0
    for name, tensor in tensors.items():
        weights = math.prod(tensor.shape)
        if name.endswith("rotary_emb.inv_freq") or (form is not None and is_helper(name)):
            continue
        if form is not None and name.endswith(".qweight") and form.bits:
            weights = weights * 32 // form.bits
        elif tensor.dtype == "U8" and f"{name}.absmax" in tensors:  # two of 4 bits in a byte
            weights *= 2
        total += weights
    return total
