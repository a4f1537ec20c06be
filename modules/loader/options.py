"""`LoadOptions`: what a user chose about the loading of one model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from modules.errors import InvalidInputError
from modules.settings import Settings

__all__ = ["LoadOptions", "load_options"]

_CHOICES: dict[str, tuple[Any, ...]] = {
    "device": ("auto", "cpu"),
    "dtype": ("auto", "bfloat16", "float16", "float32"),
    "quantize": ("none", "8bit", "4bit"),
    "wbits": (0, 2, 3, 4, 8),
    "loader": ("auto", "gptqmodel"),
    "cache_type": ("16-bit", "8-bit"),
}
_MAX_MEMORY = 2**50
_BOUNDS = {
    "context_length": (0, 2**24),
    "cache_tokens": (0, 2**20),
    "cpu_memory": (0, _MAX_MEMORY),
    "groupsize": (-1, 2**16),
}
_MAX_CARDS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """One field is one control of the Model tab, one flag, and one key of the saved settings.

    A value that does not apply to a checkpoint (`quantize` on one that is quantized already)
    is passed over, and the plan says so. One out of its bounds raises InvalidInputError.
    """

    device: Literal["auto", "cpu"] = "auto"
    """`auto`: the CUDA cards where there are any, else the processor."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """What activations and unquantized weights are computed in. `auto`: the checkpoint's own
    on a card; on the processor float32, or 4 bits where the weights came out of a 4-bit file."""

    quantize: Literal["none", "8bit", "4bit"] = "none"
    """Quantize 16-bit weights while they are read."""

    context_length: int = 0
    """Tokens to plan the KV cache for, and the most that a request may use; 0: the model's own,
    or as much of it as fits."""

    cache_tokens: int = 0
    """Tokens that the KV cache on a card has room for, for all chats together; at least the
    context. 0: up to twelve contexts, while memory is left."""

    cache_type: Literal["16-bit", "8-bit"] = "16-bit"
    """What the fast runner's KV cache holds: numbers as they are computed (in 32 bits where a
    processor computes in float32), or 8 bits, which are half of that and a little less exact."""

    offload: bool = False
    """Fill the cards, and put what does not fit into the processor's memory."""

    gpu_memory: tuple[int, ...] = ()
    """The most bytes to use on each card; 0, and cards that are not named, have no limit."""

    cpu_memory: int = 0
    """The most bytes of offloaded weights in the processor's memory; 0: what is free."""

    disk: bool = False
    """Put what fits nowhere else on the disk."""

    wbits: int = 0
    """Bits of an old GPTQ checkpoint that carries no quantize_config.json; 0: it says so itself."""

    groupsize: int = -1
    """Group size of such a checkpoint; -1: one group a row."""

    loader: Literal["auto", "gptqmodel"] = "auto"
    """`gptqmodel`: load quantized checkpoints through GPTQModel, where it is installed."""

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                known = ", ".join(str(choice) for choice in choices)
                raise _refused(name, getattr(self, name), f"Use one of {known}.")
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise _refused(name, value, f"Use a whole number from {least} to {most}.")
        if self.groupsize == 0:
            raise _refused("groupsize", 0, "Use -1 for one group a row.")
        limits = self.gpu_memory
        if type(limits) is not tuple or len(limits) > _MAX_CARDS or not all(map(_is_size, limits)):
            raise _refused("gpu_memory", limits, "Use a number of bytes for each card.")
        for name in ("offload", "disk"):
            if type(getattr(self, name)) is not bool:
                raise _refused(name, getattr(self, name), "Use true or false.")


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MAX_MEMORY


def _refused(name: str, value: object, remedy: str) -> InvalidInputError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return InvalidInputError(f"{name} cannot be {shown}.", remedy, field=name)


def load_options(settings: Settings, saved: LoadOptions | None = None) -> LoadOptions:
    """How this launch loads a model: what the flags say, then what was saved, then defaults.

    A flag that was left at its default says nothing. A limit on any memory means that the
    rest goes elsewhere, as it did in text-generation-webui, so that it implies `offload`.
    """
    limited = bool(settings.gpu_memory or settings.cpu_memory or settings.disk)
    told = LoadOptions(
        device="cpu" if settings.cpu else "auto",
        dtype="bfloat16" if settings.bf16 else "auto",
        quantize="8bit" if settings.load_in_8bit else "4bit" if settings.load_in_4bit else "none",
        context_length=settings.ctx_size,
        cache_tokens=settings.cache_tokens,
        cache_type="8-bit" if settings.cache_type == "8-bit" else "16-bit",
        offload=settings.auto_devices or limited,
        gpu_memory=settings.gpu_memory,
        cpu_memory=settings.cpu_memory,
        disk=settings.disk,
        wbits=settings.wbits,
        groupsize=settings.groupsize,
        loader="gptqmodel" if settings.loader == "gptqmodel" else "auto",
    )
    given = {
        field.name: getattr(told, field.name)
        for field in dataclasses.fields(LoadOptions)
        if getattr(told, field.name) != field.default
    }
    return dataclasses.replace(saved or LoadOptions(), **given)
