"""How transformers learns of our layers: a quantizer under a name of our own.

`from_pretrained` reads, converts and places the weights; this module swaps the layers before
and says how a checkpoint's tensors become theirs. transformers never sees "gptq" or "awq", so
it asks for none of the packages that it would want for them.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableSet
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import ConversionOps, WeightConverter
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from modules.loader.quantization.aten import AtenInt4Linear
from modules.loader.quantization.checkpoints import STORED, Packed, from_stored
from modules.loader.quantization.format import QuantizationFormat
from modules.loader.quantization.linear import QuantizedLinear
from modules.loader.quantization.rounding import quantize

__all__ = ["ConversionAborted", "LanternConfig", "LanternQuantizer"]

_NAME = "lantern"


class ConversionAborted(BaseException):
    """A layer could not be converted, for `reason`; the load ends here.

    No Exception, because transformers would note that down and read on to the last layer,
    through a card without memory too.
    """

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


@register_quantization_config(_NAME)
class LanternConfig(QuantizationConfigMixin):
    """Which layers are (or become) quantized, and how.

    `layers` are the names of the quantized layers of a checkpoint, and `biases` those of them
    that have a bias of their own; None quantizes all but the head while they are read.
    `exact` leaves out products that round more than the compute dtype does.
    """

    def __init__(
        self,
        form: QuantizationFormat,
        layers: frozenset[str] | None = None,
        biases: frozenset[str] = frozenset(),
        *,
        exact: bool = False,
    ) -> None:
        self.quant_method: Any = _NAME
        self.form = form
        self.layers = layers
        self.biases = biases
        self.exact = exact

    def to_dict(self) -> dict[str, Any]:
        """Nothing of it can be saved into a config.json."""
        return {"quant_method": _NAME, "method": self.form.method, "bits": self.form.bits}


@register_quantizer(_NAME)
class LanternQuantizer(HfQuantizer):
    """Puts `QuantizedLinear` in the place of linear layers, and fills it."""

    quantization_config: LanternConfig

    def __init__(self, quantization_config: LanternConfig, **options: Any) -> None:
        super().__init__(quantization_config, **options)
        # Decides how transformers reads: one tensor at a time where they are quantized meanwhile.
        self.pre_quantized = quantization_config.layers is not None

    @property
    def is_trainable(self) -> bool:
        """Adapters over the layers are."""
        return True

    def is_serializable(self) -> bool:
        """The packed form is for memory; what is saved is the checkpoint that it came from."""
        return False

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **_: Any) -> None:
        config = self.quantization_config
        wanted = config.layers
        if wanted is None:
            wanted = self._all_but_the_head(model)
        for name in wanted:
            plain = _submodule(model, name)
            if isinstance(plain, nn.Linear):
                bias = name in config.biases if self.pre_quantized else plain.bias is not None
                model.set_submodule(name, _empty(plain, config.form, bias, model.dtype))

    def _all_but_the_head(self, model: PreTrainedModel) -> frozenset[str]:
        kept = set(self.get_modules_to_not_convert(model))
        names = (n for n, module in model.named_modules() if isinstance(module, nn.Linear))
        return frozenset(name for name in names if name not in kept)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: Any) -> None:
        if not self.quantization_config.exact:
            for name, layer in list(_layers(model)):
                if AtenInt4Linear.fits(layer):
                    model.set_submodule(name, AtenInt4Linear.take(layer))

    def get_weight_conversions(self) -> list[WeightConverter]:
        """How the tensors of a quantized checkpoint are taken together, layer by layer."""
        if not self.pre_quantized:
            return []
        sources = [rf"\.{part}$" for part in STORED]
        return [WeightConverter(sources, ".weight", [_Convert(self.quantization_config.form)])]

    def param_needs_quantization(
        self, model: PreTrainedModel, param_name: str, **kwargs: Any
    ) -> bool:
        """Whether a tensor of a 16-bit checkpoint is to be quantized while it is read."""
        name, _, tensor = param_name.rpartition(".")
        return tensor == "weight" and isinstance(_submodule(model, name), QuantizedLinear)

    def get_quantize_ops(self) -> ConversionOps:
        """What quantizes it."""
        return _Quantize(self.quantization_config.form)


class _Convert(ConversionOps):
    """The tensors of one layer of a checkpoint become those of its `QuantizedLinear`."""

    hf_quantizer = True  # what transformers looks for before it leaves the dtypes alone

    def __init__(self, form: QuantizationFormat) -> None:
        self._form = form

    def convert(self, input_dict: dict[str, Any], *_: Any, **about: Any) -> dict[str, Any]:
        tensors = {key.strip("\\.$"): _single(value) for key, value in input_dict.items()}
        layer, name = _layer(about)
        with _aborting():
            packed = from_stored(tensors, self._form, layer.in_features, name)
        return _fill(layer, name, packed, about["missing_keys"])


class _Quantize(ConversionOps):
    """A 16-bit weight becomes the tensors of a `QuantizedLinear`."""

    def __init__(self, form: QuantizationFormat) -> None:
        self._form = form

    def convert(self, input_dict: dict[str, Any], *_: Any, **about: Any) -> dict[str, Any]:
        (value,) = input_dict.values()
        layer, name = _layer(about)
        with _aborting():
            packed = quantize(_single(value), self._form)
        return _fill(layer, name, packed, about["missing_keys"])


def _layer(about: dict[str, Any]) -> tuple[QuantizedLinear, str]:
    """The layer that a conversion is about, and its name."""
    name = str(about["full_layer_name"]).removesuffix(".weight")
    layer = about["model"].get_submodule(name)
    assert isinstance(layer, QuantizedLinear)
    return layer, name


@contextmanager
def _aborting() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise ConversionAborted(error) from error


def _fill(
    layer: nn.Module, name: str, packed: Packed, missing: MutableSet[str]
) -> dict[str, Tensor]:
    """What to set, by full name; a tensor that would say nothing is taken off the layer."""
    tensors = {"weight": packed.weight, "scales": packed.scales}
    for part, tensor in (("zeros", packed.zeros), ("perm", packed.perm)):
        if tensor is not None:
            tensors[part] = tensor
        else:
            setattr(layer, part, None)
            missing.discard(f"{name}.{part}")
    return {f"{name}.{part}": tensor for part, tensor in tensors.items()}


def _empty(
    plain: nn.Linear, form: QuantizationFormat, bias: bool, dtype: torch.dtype
) -> QuantizedLinear:
    with torch.device("meta"):
        return QuantizedLinear(
            plain.in_features,
            plain.out_features,
            bits=form.bits,
            group_size=form.group_size,
            bias=bias,
            dtype=dtype,
        )


def _layers(model: nn.Module) -> Iterator[tuple[str, QuantizedLinear]]:
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear):
            yield name, module


def _submodule(model: nn.Module, name: str) -> nn.Module | None:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None


def _single(value: Any) -> Tensor:
    tensor: Tensor = value[0] if isinstance(value, list) else value
    return tensor
