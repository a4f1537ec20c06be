"""A checkpoint as the Model tab shows it: its card, the options that fit it, and the plan."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from typing import Any

from modules.loader.applicable import is_quantized
from modules.loader.fast_runner import FAMILY
from modules.loader.inspect import Inspection
from modules.loader.machine import Card, Machine
from modules.loader.options import LoadOptions
from modules.loader.plan import DevicePlan, Plan
from modules.loader.quantization.format import QuantizationFormat

__all__ = ["card_json", "controls_json", "kind_of", "options_json", "plan_json"]

_MIN_CONTEXT = 256
_MOST_CACHE, _MOST_CONTEXTS = 2**20, 32
_GIGABYTE = 10**9


def kind_of(inspection: Inspection) -> str:
    """The weights in a word or two: "GPTQ 4-bit", "bfloat16", "GGUF"."""
    quantization = inspection.quantization
    if quantization is not None:
        bits = f" {quantization.bits}-bit" if quantization.bits else ""
        return quantization.method.upper() + bits
    if any(file.suffix == ".gguf" for file in inspection.weights):
        return "GGUF"
    return "GPTQ" if is_quantized(inspection) else inspection.dtype


# -- the card ---------------------------------------------------------------------------


def card_json(inspection: Inspection) -> dict[str, Any]:
    """What it is, as labels and words; rows that the checkpoint does not tell are left out."""
    rows = [
        ("Architecture", inspection.architecture),
        ("Parameters", _count(inspection.parameters)),
        ("Weights", _weights(inspection)),
        ("Context", f"{inspection.context_length:,} tokens" if inspection.context_length else ""),
        ("Attention", _attention(inspection)),
        ("Vocabulary", f"{inspection.vocabulary:,} tokens" if inspection.vocabulary else ""),
        ("Chat template", _template(inspection)),
        ("Safe to load", _safety(inspection)),
    ]
    return {
        "name": inspection.name,
        "kind": kind_of(inspection),
        "size": sum(inspection.files.values()),
        "rows": [row for row in rows if row[1]],
        "files": sorted(inspection.files.items()),
        "problem": inspection.problem,
        "remedy": inspection.remedy,
    }


def _count(number: int) -> str:
    if number >= 10**9:
        return f"{number / 1e9:.1f} billion"
    return f"{number / 1e6:.0f} million" if number >= 10**6 else f"{number:,}" if number else ""


def _weights(inspection: Inspection) -> str:
    if inspection.quantization is None:
        return kind_of(inspection)
    return _quantization(inspection.quantization)


def _quantization(quantization: QuantizationFormat) -> str:
    parts = [quantization.method.upper()]
    if quantization.bits and quantization.method != "gguf":
        parts.append(f"{quantization.bits} bits")
        size = quantization.group_size
        parts.append(f"groups of {size}" if size > 0 else "one group a row")
        parts.append("symmetric" if quantization.symmetric else "asymmetric")
    if quantization.act_order:
        parts.append("act-order")
    if quantization.version:
        parts.append(f"format {quantization.version}")
    return ", ".join(parts)


def _attention(inspection: Inspection) -> str:
    heads, shared = inspection.heads, inspection.kv_heads
    if not heads:
        return ""
    text = f"{inspection.layers} layers, {heads} heads"
    return f"{text}, {shared} key/value heads" if shared not in (0, heads) else text


def _template(inspection: Inspection) -> str:
    source = inspection.template_source
    return f"yes, from {source}" if source else "none of its own"


def _safety(inspection: Inspection) -> str:
    if not inspection.safe:
        return "no"
    return "" if inspection.problem else "yes, it brings no code"


# -- the options that fit ---------------------------------------------------------------


def controls_json(inspection: Inspection, machine: Machine) -> list[dict[str, Any]]:
    """The fields of LoadOptions that mean something for this checkpoint on this machine.

    A control with `needs` counts while the named fields have these values; `planned` is the part
    of the plan that says what it comes to where it is left free. `inspection` is
    what the checkpoint says by itself, without the options.
    """
    quantized = is_quantized(inspection)
    # An old GPTQ checkpoint, whose settings are nowhere or only guessed from its shapes.
    untold = quantized and (inspection.quantization is None or bool(inspection.note))
    own = inspection.context_length
    controls = [_context(own)] if own else []
    if own and machine.cards and inspection.model_type in FAMILY:
        controls.append(_cache(own))
    if inspection.model_type in FAMILY:
        controls.append(_CACHE_TYPE)
    if not quantized:
        controls.append(_QUANTIZE)
    if untold:
        controls += [_WBITS, _GROUPSIZE]
    controls.append(_DTYPE)
    if machine.cards:
        controls += [_DEVICE, *(_limit(card) for card in machine.cards), _OFFLOAD]
        controls += [_cpu_limit(machine), _DISK]
    if quantized and find_spec("gptqmodel") is not None:
        controls.append(_LOADER)
    return controls


def _choice(name: str, label: str, help_: str, *choices: tuple[Any, str]) -> dict[str, Any]:
    return {"kind": "choice", "name": name, "label": label, "help": help_, "choices": choices}


def _toggle(name: str, label: str, help_: str, needs: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "toggle", "name": name, "label": label, "help": help_, "needs": needs}


_ON_CARD = {"device": "auto"}
_OFFLOADED = {"device": "auto", "offload": True}

_QUANTIZE = _choice(
    "quantize", "Quantize while loading",
    "Stores the weights in fewer bits: less memory, a little less exact.",
    ("none", "no"), ("8bit", "8-bit"), ("4bit", "4-bit"),
)  # fmt: skip
_CACHE_TYPE = _choice(
    "cache_type", "Bits of the KV cache",
    "Numbers of 8 bits leave room for nearly twice as many tokens, and are a little less exact. "
    "16: as they are computed.",
    ("16-bit", "16"), ("8-bit", "8"),
)  # fmt: skip
_DTYPE = _choice(
    "dtype", "Compute in",
    "Automatic: the model's own on a card; on the processor float32, or 4 bits where the weights "
    "came out of a 4-bit file, as the starter's did. float32 is the most exact.",
    ("auto", "automatic"), ("bfloat16", "bfloat16"), ("float16", "float16"),
    ("float32", "float32"),
)  # fmt: skip
_DEVICE = _choice(
    "device", "Device", "Where the model computes.",
    ("auto", "graphics card"), ("cpu", "processor"),
)  # fmt: skip
_WBITS = _choice(
    "wbits", "Bits", "The checkpoint does not say how many bits its weights have.",
    (0, "as the shapes say"), (2, "2"), (3, "3"), (4, "4"), (8, "8"),
)  # fmt: skip
_GROUPSIZE = _choice(
    "groupsize", "Group size", "It is often in the name: 128g stands for 128.",
    (-1, "as the shapes say"), (32, "32"), (64, "64"), (128, "128"),
)  # fmt: skip
_LOADER = _choice(
    "loader", "Loader", "GPTQModel also reads methods that Lantern does not.",
    ("auto", "Lantern's"), ("gptqmodel", "GPTQModel"),
)  # fmt: skip
_OFFLOAD = _toggle(
    "offload", "Use the processor's memory too",
    "Layers that do not fit on the card lie in main memory, and are slower.", _ON_CARD,
)  # fmt: skip
_DISK = _toggle(
    "disk", "Use the disk too",
    "Layers that fit nowhere else are read again for every token.", _ON_CARD,
)  # fmt: skip


def _context(own: int) -> dict[str, Any]:
    return {
        "kind": "number",
        "name": "context_length",
        "label": "Context",
        "unit": "tokens",
        "help": "How much text the model can look back on; memory is set aside for all of it.",
        "min": min(_MIN_CONTEXT, own),
        "max": own,
        "step": _MIN_CONTEXT,
        "scale": 1,
        "free": "As much as fits",
        "planned": "context",
    }


def _cache(own: int) -> dict[str, Any]:
    return {
        "kind": "number",
        "name": "cache_tokens",
        "label": "KV cache",
        "unit": "tokens",
        "help": "What all chats together may have in the card's memory, one context at least. "
        "Automatic: up to twelve contexts, and half of what is left stays free.",
        "min": min(_MIN_CONTEXT, own),
        "max": max(own, min(_MOST_CACHE, _MOST_CONTEXTS * own)),
        "step": _MIN_CONTEXT,
        "scale": 1,
        "free": "Automatic",
        "planned": "cache_tokens",
        "needs": _ON_CARD,
    }


def _limit(card: Card) -> dict[str, Any]:
    about = f"The most to use of {card.name}."
    shown = _memory("gpu_memory", f"Memory of card {card.index}", about, card.total)
    return shown | {"index": card.index, "needs": _ON_CARD}


def _cpu_limit(machine: Machine) -> dict[str, Any]:
    help_ = "The most of the processor's memory for layers that do not fit on the card."
    shown = _memory("cpu_memory", "Processor memory", help_, machine.ram_total)
    return shown | {"needs": _OFFLOADED}


def _memory(name: str, label: str, help_: str, total: int) -> dict[str, Any]:
    """A limit in GB; at its end it limits nothing."""
    return {
        "kind": "number",
        "name": name,
        "label": label,
        "unit": "GB",
        "help": help_,
        "min": 1,
        "max": max(1, -(-total // _GIGABYTE)),
        "step": 0.5,
        "scale": _GIGABYTE,
        "free": "No limit",
    }


def options_json(options: LoadOptions) -> dict[str, Any]:
    """The values that the controls begin with."""
    return dataclasses.asdict(options)


# -- the plan ---------------------------------------------------------------------------


def plan_json(plan: Plan) -> dict[str, Any]:
    """A bar for each device, and what to say about it; all sizes in bytes."""
    return {
        "fits": plan.fits,
        "weights": plan.weights,
        "context": plan.context_length,
        "cache_tokens": plan.cache_tokens,
        "cache": _cache_words(plan),
        "devices": [_device_json(device) for device in plan.devices],
        "message": plan.message,
        "choices": [{"label": c.label, "changes": dict(c.changes)} for c in plan.choices],
        "notes": plan.notes,
    }


def _cache_words(plan: Plan) -> str:
    tokens, context = plan.cache_tokens, plan.context_length
    if not tokens:
        return ""
    chats = tokens // context
    room = "one chat" if chats == 1 else f"{chats} chats"
    size = f"{tokens:,} tokens" + (" in 8 bits" if plan.options.cache_type == "8-bit" else "")
    return f"KV cache for {size}: room for {room} of {context:,}, or more shorter ones."


def _device_json(device: DevicePlan) -> dict[str, Any]:
    parts = [
        ("weights", "Weights", device.weights),
        ("cache", "KV cache", device.kv_cache),
        ("adapters", "LoRAs", device.adapters),
        ("workspace", "Workspace", device.workspace),
    ]
    return {
        "device": device.device,
        "name": device.name,
        "capacity": device.capacity,
        "used": device.used,
        "parts": [{"key": key, "label": label, "bytes": size} for key, label, size in parts],
    }
