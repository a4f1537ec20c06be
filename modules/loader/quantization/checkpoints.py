"""From the tensors of a GPTQ or AWQ checkpoint to those of a `QuantizedLinear`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modules.errors import LoadFailedError
from modules.loader.quantization.format import QuantizationFormat
from modules.loader.quantization.packing import awq_codes, gptq_rows, pack, unpack

__all__ = ["STORED", "Packed", "from_stored"]

STORED = ("qweight", "qzeros", "scales", "g_idx")
"""What both formats call the tensors of a layer; AWQ has no `g_idx`, and old GPTQ may not."""


@dataclass(frozen=True, slots=True)
class Packed:
    """The tensors of a layer; `zeros` and `perm` are None where they would say nothing."""

    weight: Tensor
    scales: Tensor
    zeros: Tensor | None
    perm: Tensor | None


def from_stored(
    tensors: dict[str, Tensor], form: QuantizationFormat, in_features: int, name: str
) -> Packed:
    """Convert the `STORED` tensors of the layer `name`.

    Raises LoadFailedError, naming the layer, where one is missing or the groups make no sense.
    """
    missing = [part for part in ("qweight", "scales", "qzeros") if part not in tensors]
    if missing:
        raise LoadFailedError(f"The checkpoint lacks {name}.{missing[0]}.", "Download it again.")
    read = _from_gptq if form.method == "gptq" else _from_awq
    weight, zeros = read(tensors, form)
    scales = tensors["scales"].t().contiguous()
    middle = 1 << (form.bits - 1)
    kept = None if bool((zeros == middle).all()) else zeros.t().to(scales.dtype).contiguous()
    perm = _permutation(tensors.get("g_idx"), form, in_features, name)
    if perm is not None:
        weight = pack(unpack(weight, form.bits)[:, perm.long()], form.bits)
    return Packed(weight, scales, kept, perm)


def _from_gptq(tensors: dict[str, Tensor], form: QuantizationFormat) -> tuple[Tensor, Tensor]:
    """Packed weights, and zero points [groups, out]."""
    zeros = unpack(tensors["qzeros"].contiguous().view(torch.uint8), form.bits)
    # 8-bit zero points stored minus one go up to 256.
    return gptq_rows(tensors["qweight"]), zeros.to(torch.int16) + (form.version != "v2")


def _from_awq(tensors: dict[str, Tensor], form: QuantizationFormat) -> tuple[Tensor, Tensor]:
    weight = pack(awq_codes(tensors["qweight"]).t().contiguous(), form.bits)
    return weight, awq_codes(tensors["qzeros"])


def _permutation(
    g_idx: Tensor | None, form: QuantizationFormat, in_features: int, name: str
) -> Tensor | None:
    """The order that makes the groups contiguous; None where they are already."""
    size = in_features if form.group_size == -1 else form.group_size
    if g_idx is None:
        return None
    regular = torch.arange(in_features, device=g_idx.device, dtype=g_idx.dtype) // size
    if torch.equal(g_idx, regular):
        return None
    perm = torch.argsort(g_idx, stable=True)
    if not torch.equal(g_idx[perm], regular):
        raise LoadFailedError(
            f"The groups of {name} are not of size {size}.",
            "Check the group size in quantize_config.json, or give it with --groupsize.",
        )
    return perm.to(torch.int32)
