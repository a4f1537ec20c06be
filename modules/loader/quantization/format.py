"""`QuantizationFormat`: how the linear layers of a checkpoint are stored on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["LOAD_4BIT", "LOAD_8BIT", "QuantizationFormat", "parse_settings"]

_OURS = ("gptq", "awq")
_MOST_BITS, _MOST_GROUP = 16, 2**20
_GPTQ_VERSIONS = {"": "v1", "gptq": "v1", "gptq_v2": "v2"}


@dataclass(frozen=True, slots=True)
class QuantizationFormat:
    """What config.json or quantize_config.json (or a flag) says about the quantization.

    `method` is "gptq", "awq", or whatever else the checkpoint calls itself. `group_size` is
    in input features, -1 for one group a row. `version` is "v1" (GPTQ, zero points stored
    minus one), "v2" (stored as they are), "gemm" (AWQ's packing), or the checkpoint's word.
    `act_order` is true where `g_idx` may be out of order.

    A GGUF file has the method "gguf" and as its version the type that most of its weights
    have ("Q4_K"); transformers unpacks it to 16 or 32 bits when it is loaded.
    """

    method: str
    bits: int
    group_size: int
    symmetric: bool = False
    act_order: bool = False
    version: str = ""

    @property
    def words(self) -> str:
        """As a person says it: "GPTQ 4-bit, group 128, act-order"."""
        group = f"group {self.group_size}" if self.group_size > 0 else "one group a row"
        order = ", act-order" if self.act_order else ""
        return f"{self.method.upper()} {self.bits}-bit, {group}{order}"

    @property
    def readable(self) -> bool:
        """Whether Lantern's own layers read it."""
        if self.method == "gptq":
            return self.bits in (2, 3, 4, 8) and self.version in ("v1", "v2")
        return self.method == "awq" and self.bits == 4 and self.version == "gemm"


LOAD_8BIT = QuantizationFormat("lantern", 8, 128, symmetric=True)
"""What --load-in-8bit makes of the linear layers of a 16-bit checkpoint."""

LOAD_4BIT = QuantizationFormat("lantern", 4, 64)
"""What --load-in-4bit makes of them: with a scale and a zero point for each group."""


def parse_settings(settings: Mapping[str, Any], default_method: str = "") -> QuantizationFormat:
    """From `quantization_config` in config.json, or from a file of its own.

    `default_method` is for old files, which do not name theirs. Raises ValueError, saying
    what is wrong, where a method that Lantern reads is described by impossible values.
    """
    method = _word(settings, "quant_method", "method") or _guessed(settings) or default_method
    if method not in _OURS:
        return QuantizationFormat(
            method=method or "unknown",
            bits=_said_bits(settings),
            group_size=_said_group(settings),
            version=_word(settings, "checkpoint_format", "format", "version", "fmt"),
        )
    return QuantizationFormat(
        method=method,
        bits=_number(settings, ("bits", "w_bit"), 1, _MOST_BITS),
        group_size=_number(settings, ("group_size", "q_group_size"), -1, _MOST_GROUP, -1),
        symmetric=settings.get("sym", True) is True
        if method == "gptq"
        else settings.get("zero_point", True) is False,
        act_order=settings.get("desc_act") is True,
        version=_gptq_version(settings) if method == "gptq" else _awq_version(settings),
    )


def _gptq_version(settings: Mapping[str, Any]) -> str:
    overrides = settings.get("dynamic")  # GPTQModel's; "-:" leaves layers unquantized
    if isinstance(overrides, dict) and any(not key.startswith("-:") for key in overrides):
        return "dynamic"
    if settings.get("is_marlin_format") is True:
        return "marlin"
    word = _word(settings, "checkpoint_format", "format")
    return _GPTQ_VERSIONS.get(word, word)


def _awq_version(settings: Mapping[str, Any]) -> str:
    if _word(settings, "backend") == "llm-awq":
        return "llm-awq"
    return _word(settings, "version", "checkpoint_format", "format") or "gemm"


def _word(settings: Mapping[str, Any], *keys: str) -> str:
    words = (settings.get(key) for key in keys)
    return next((word.lower()[:40] for word in words if isinstance(word, str) and word), "")


def _guessed(settings: Mapping[str, Any]) -> str:
    if settings.get("load_in_4bit") is True or settings.get("load_in_8bit") is True:
        return "bitsandbytes"
    return "awq" if "w_bit" in settings else ""


def _number(
    settings: Mapping[str, Any], keys: tuple[str, ...], least: int, most: int, default: int = 0
) -> int:
    key = next((key for key in keys if settings.get(key) is not None), "")
    value = settings.get(key, default)
    if type(value) is not int or not least <= value <= most or (value == 0):
        told = f"its {key} is {str(value)[:30]!r}" if key else f"it has no {keys[0]}"
        raise ValueError(told)
    return value


def _said_bits(settings: Mapping[str, Any]) -> int:
    """Of a method that Lantern does not read: what it says, 0 for what makes no sense."""
    for key, bits in (("load_in_4bit", 4), ("load_in_8bit", 8)):
        if settings.get(key) is True:
            return bits
    bits = settings.get("bits", settings.get("w_bit"))
    if isinstance(bits, bool) or not isinstance(bits, int | float):
        return 0
    return round(bits) if 0 < bits <= _MOST_BITS else 0  # 4.65 is a thing that exl2 says


def _said_group(settings: Mapping[str, Any]) -> int:
    size = settings.get("group_size", settings.get("q_group_size"))
    return size if type(size) is int and 0 < size <= _MOST_GROUP else -1
