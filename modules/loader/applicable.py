"""Which of the options apply to a checkpoint on a machine, and a sentence for each other."""

from __future__ import annotations

from dataclasses import replace

from modules.loader.fast_runner import FAMILY
from modules.loader.inspect import Inspection
from modules.loader.machine import Machine
from modules.loader.options import LoadOptions

__all__ = ["applicable", "cache_type_note", "is_quantized"]

_AMPERE = (8, 0)


def is_quantized(inspection: Inspection) -> bool:
    """Whether the checkpoint is stored quantized, even if it does not say how."""
    packed = any(name.endswith(".qweight") for name in inspection.tensors)
    return inspection.quantization is not None or packed


def applicable(
    inspection: Inspection, options: LoadOptions, machine: Machine
) -> tuple[LoadOptions, tuple[str, ...]]:
    """`options` without what does not apply, and why that was passed over."""
    notes = [inspection.note] if inspection.note else []
    options = _about_quantization(inspection, options, notes)
    options = _about_context(inspection, options, notes)
    options = _about_cards(options, machine, notes)
    options = _about_cache(inspection, options, notes)
    if options.disk and options.quantize != "none":
        notes.append(
            "Weights that are quantized while loading cannot lie on the disk, "
            "so --disk was passed over."
        )
        options = replace(options, disk=False, offload=options.offload or options.disk)
    return options, tuple(notes)


def _about_quantization(
    inspection: Inspection, options: LoadOptions, notes: list[str]
) -> LoadOptions:
    name, stored = inspection.name, inspection.quantization
    if is_quantized(inspection) and options.quantize != "none":
        kind = f"{stored.bits}-bit {stored.method.upper()}" if stored else "a quantized form"
        notes.append(
            f"{name} is stored in {kind} already, so --load-in-{options.quantize} was passed over."
        )
        options = replace(options, quantize="none")
    if not is_quantized(inspection):
        if options.wbits:
            notes.append(f"{name} is not quantized, so --wbits was passed over.")
        if options.loader == "gptqmodel":
            notes.append(f"{name} is not quantized, so --loader gptqmodel was passed over.")
        return replace(options, wbits=0, groupsize=-1, loader="auto")
    if stored and options.wbits not in (0, stored.bits):
        notes.append(
            f"{name} says itself that it has {stored.bits} bits, "
            f"so --wbits {options.wbits} was passed over."
        )
        options = replace(options, wbits=0)
    if stored and options.groupsize not in (-1, stored.group_size):
        notes.append(
            f"{name} says itself that its group size is {stored.group_size}, "
            f"so --groupsize {options.groupsize} was passed over."
        )
        options = replace(options, groupsize=-1)
    return options


def _about_context(inspection: Inspection, options: LoadOptions, notes: list[str]) -> LoadOptions:
    own = inspection.context_length
    if not own or options.context_length <= own:
        return options
    notes.append(
        f"{inspection.name} was made for a context of {own:,} tokens, "
        f"so --ctx-size {options.context_length} was passed over."
    )
    return replace(options, context_length=own)


def _about_cards(options: LoadOptions, machine: Machine, notes: list[str]) -> LoadOptions:
    if options.device == "cpu" or not machine.cards:
        why = "--cpu was given" if options.device == "cpu" else "There is no graphics card"
        flags = ["--auto-devices"] if options.offload and not options.disk else []
        flags += ["--gpu-memory"] if options.gpu_memory else []
        flags += ["--cpu-memory"] if options.cpu_memory and not options.disk else []
        flags += ["--cache-tokens"] if options.cache_tokens else []
        if flags:
            were = "was" if len(flags) == 1 else "were"
            notes.append(f"{why}, so {_list(flags)} {were} passed over.")
        cpu_memory = options.cpu_memory if options.disk else 0
        return replace(options, offload=False, gpu_memory=(), cpu_memory=cpu_memory, cache_tokens=0)
    count = len(machine.cards)
    if len(options.gpu_memory) > count:
        there = "There is one card" if count == 1 else f"There are {count} cards"
        notes.append(f"{there}, so the further limits of --gpu-memory were passed over.")
        options = replace(options, gpu_memory=options.gpu_memory[:count])
    old = [card for card in machine.cards if (0, 0) < card.capability < _AMPERE]
    if old and options.dtype == "bfloat16":
        notes.append(
            f"{old[0].name} has no bfloat16 of its own and is slow in it, "
            "so float16 would be better than --bf16."
        )
    return options


def _about_cache(inspection: Inspection, options: LoadOptions, notes: list[str]) -> LoadOptions:
    if options.cache_type == "16-bit" or inspection.model_type in FAMILY:
        return options
    notes.append(cache_type_note(inspection.name))
    return replace(options, cache_type="16-bit")


def cache_type_note(name: str) -> str:
    """Why a model's KV cache is not in 8 bits."""
    return (
        f"{name} is not computed by the fast runner, which alone has a KV cache in 8 bits, "
        "so --cache-type was passed over."
    )


def _list(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
