"""`CudaLinear`: the product with packed weights on a card, by kernels of our own.

A `QuantizedLinear` of 4 or 8 bits keeps its tensors and gets another product (packed.cu): up to
eight rows of x are multiplied with the packed weights as they are, so that a decode step reads
half a byte a weight; more rows are multiplied with weights that one kernel dequantizes first.
The reference is the plain torch of `QuantizedLinear`; benchmarks/packed_product.py measures.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from modules.engine.worker.kernels.launch import Kernel
from modules.loader.quantization.linear import QuantizedLinear

__all__ = ["CudaLinear", "PackedKernels", "use_kernels"]

log = logging.getLogger(__name__)

_SOURCE = Path(__file__).with_name("packed.cu")
_DTYPES = (torch.float16, torch.bfloat16)
_MOST_ROWS = 8
_THREADS = 128
_OUTPUTS = 2 * _THREADS // 32  # outputs of a block; the 2 is OUTPUTS in packed.cu


class PackedKernels:
    """The compiled kernels of one process, each compiled when it is first wanted (0.2 s)."""

    def __init__(self) -> None:
        self._compiled: dict[tuple[str, int, torch.dtype, int, int | None], Kernel] = {}

    def multiply(self, layer: QuantizedLinear, x: Tensor) -> Tensor:
        """x [rows, in] times the weights: [rows, out], for 1 to 8 rows."""
        rows, inputs = x.shape
        y = torch.empty(rows, layer.out_features, dtype=x.dtype, device=x.device)
        blocks = -(-layer.out_features // _OUTPUTS)
        kernel = self._kernel("product", layer.bits, x, 1 if rows == 1 else _MOST_ROWS)
        sizes = (inputs, layer.out_features, layer.group_size, layer.scales.shape[1])
        tensors = (*_tensors(layer), x, y)
        kernel.launch(blocks, _THREADS, *tensors, *sizes, rows, int(layer.zeros is not None))
        return y

    def dequantize(self, layer: QuantizedLinear, dtype: torch.dtype) -> Tensor:
        """The weights [out, in] in `dtype`, the inputs in the order of the groups."""
        shape = (layer.out_features, layer.in_features)
        weight = torch.empty(shape, dtype=dtype, device=layer.weight.device)
        blocks = -(-weight.numel() // (8 * _THREADS))
        kernel = self._kernel("dequantize", layer.bits, weight, 1)
        sizes = (layer.in_features, layer.out_features, layer.group_size, layer.scales.shape[1])
        tensors = (*_tensors(layer), weight)
        kernel.launch(blocks, _THREADS, *tensors, *sizes, int(layer.zeros is not None))
        return weight

    def _kernel(self, name: str, bits: int, like: Tensor, rows: int) -> Kernel:
        key = (name, bits, like.dtype, rows, like.device.index)
        if key not in self._compiled:
            defined = f"#define BITS {bits}\n#define ROWS {rows}\n"
            defined += f"#define BFLOAT {int(like.dtype == torch.bfloat16)}\n"
            source = defined + _SOURCE.read_text(encoding="utf-8")
            self._compiled[key] = Kernel(source, name, like.device)
        return self._compiled[key]


class CudaLinear(QuantizedLinear):
    """A `QuantizedLinear` on a card, with the same tensors. `kernels` is the process's."""

    kernels: PackedKernels

    @staticmethod
    def fits(layer: QuantizedLinear) -> bool:
        """Whether the kernels read the tensors of `layer`."""
        return (
            type(layer) is QuantizedLinear
            and layer.weight.is_cuda
            and layer.bits in (4, 8)
            and layer.group_size % 32 == 0
            and layer.in_features % 32 == 0
            and layer.scales.dtype == torch.float16
        )

    def _product(self, x: Tensor) -> Tensor:
        if x.dtype not in _DTYPES:
            return super()._product(x)
        if self.perm is not None:
            x = x.index_select(-1, self.perm)
        rows = x.reshape(-1, self.in_features).contiguous()
        with torch.cuda.device(x.device):
            if len(rows) <= _MOST_ROWS:
                y = self.kernels.multiply(self, rows)
            else:
                y = functional.linear(rows, self.kernels.dequantize(self, x.dtype))
        return y.view(*x.shape[:-1], self.out_features)

    def _ordered(self, dtype: torch.dtype) -> Tensor:
        if dtype not in _DTYPES:
            return super()._ordered(dtype)
        with torch.cuda.device(self.weight.device):
            return self.kernels.dequantize(self, dtype)


def use_kernels(model: nn.Module, kernels: PackedKernels) -> int:
    """Give every layer of `model` that fits the kernels; returns how many there were.

    Where they cannot be compiled, the layers stay as they are, and the log says why.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, QuantizedLinear)]
    fitting = [layer for layer in layers if CudaLinear.fits(layer)]
    try:
        for layer in fitting[:1]:
            weight = kernels.dequantize(layer, torch.float16)
            kernels.multiply(layer, weight[:1])
    except (RuntimeError, OSError, AttributeError) as error:
        log.warning("The kernels cannot be used, so that replies are slow: %s", error)
        return 0
    for layer in fitting:
        # Not another module in its place: accelerate has hung its hooks on this one.
        layer.__class__ = CudaLinear
        layer.kernels = kernels  # type: ignore[assignment]
    return len(fitting)


def _tensors(layer: QuantizedLinear) -> list[Tensor]:
    # A kernel wants a pointer for the zero points in any case.
    zeros = layer.scales if layer.zeros is None else layer.zeros
    return [layer.weight.data, layer.scales.data, zeros.data]
