"""`AtenInt4Linear`: the 4-bit product that torch itself has for the processor.

torch.ops.aten._weight_int4pack_mm_for_cpu is fast for bfloat16 alone, so a product in float32
is rounded to that. On two shared cores one row through 1536 x 576 weights took 36 us, where
the dense product took 108 us and dequantizing first a millisecond. What it costs: the logits
of a 135M model in float32 changed by 0.8 %, its perplexity by 0.3 %, and its greedy replies
not at all; computing all of it in bfloat16 changed them by 1.4 %.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modules.loader.quantization.linear import QuantizedLinear
from modules.loader.quantization.packing import unpack

__all__ = ["AtenInt4Linear"]

_GROUPS = (32, 64, 128, 256)


class AtenInt4Linear(QuantizedLinear):
    """A `QuantizedLinear` on the processor whose tensors lie as ATen wants them.

    `weight` holds the same codes in ATen's order, which depends on the processor; `scales` is
    bfloat16 [groups, out_features, 2]: a scale, and what the code 8 stands for. `zeros` is None.
    """

    @staticmethod
    def fits(layer: QuantizedLinear) -> bool:
        """Whether `layer` can become one."""
        return (
            type(layer) is QuantizedLinear
            and layer.weight.device.type == "cpu"
            and layer.bits == 4
            and layer.group_size in _GROUPS
            and layer.in_features % layer.group_size == 0
            and layer.out_features % 16 == 0
        )

    @classmethod
    def take(cls, layer: QuantizedLinear) -> AtenInt4Linear:
        """Take over the tensors of a layer that fits; the layer itself is spent."""
        taken = cls.__new__(cls)
        nn.Module.__init__(taken)
        taken.in_features, taken.out_features = layer.in_features, layer.out_features
        taken.bits, taken.group_size = layer.bits, layer.group_size
        codes = unpack(layer.weight, 4).int()
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
        scales = layer.scales.float()
        zeros = 8.0 if layer.zeros is None else layer.zeros.float()
        pairs = torch.stack([scales, (8.0 - zeros) * scales], dim=-1).to(torch.bfloat16)
        taken.weight = nn.Parameter(packed, requires_grad=False)
        taken.scales = nn.Parameter(pairs.transpose(0, 1).contiguous(), requires_grad=False)
        taken.zeros, taken.perm, taken.bias = None, layer.perm, layer.bias
        return taken

    def _product(self, x: Tensor) -> Tensor:
        if self.perm is not None:
            x = x.index_select(-1, self.perm)
        return self._multiply(x.flatten(0, -2)).view(*x.shape[:-1], self.out_features).to(x.dtype)

    def _ordered(self, dtype: torch.dtype) -> Tensor:
        # Only ATen knows its order; the product with unit vectors asks it.
        units = torch.eye(self.in_features, dtype=torch.bfloat16)
        return self._multiply(units).t().to(dtype)

    def _multiply(self, rows: Tensor) -> Tensor:
        product: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            rows.to(torch.bfloat16).contiguous(), self.weight, self.group_size, self.scales
        )
        return product
