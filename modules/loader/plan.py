"""`Plan`: what a load will cost on each device, and whether it fits, before anything moves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from modules.loader.applicable import applicable, cache_type_note, is_quantized
from modules.loader.fast_runner import FAMILY, cache_tokens, serves
from modules.loader.footprint import PROCESSOR_WORKSPACE, Footprint, footprint
from modules.loader.inspect import Inspection
from modules.loader.machine import Machine
from modules.loader.options import LoadOptions
from modules.loader.placement import Cost, Layout, Place

__all__ = ["Choice", "DevicePlan", "Plan", "make_plan"]

_UNKNOWN_CONTEXT = 2048
"""Planned for a checkpoint that does not say its context, as the worker has it."""
_LEAST_CONTEXT = 4096
"""How far a context that nobody chose is shortened to make a model fit."""
_STEP = 256
"""Contexts are offered in multiples of this."""


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """Bytes on one device: "cuda:0", "cpu" or "disk". `capacity` is what may be used of it."""

    device: str
    name: str
    capacity: int
    weights: int
    kv_cache: int
    adapters: int
    workspace: int

    @property
    def used(self) -> int:
        """All of it."""
        return self.weights + self.kv_cache + self.adapters + self.workspace


@dataclass(frozen=True, slots=True)
class Choice:
    """A way to make a model fit: what a button says, and the fields of LoadOptions it sets."""

    label: str
    changes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """What loading would do.

    `placement` maps modules ("model.layers.7") to devices, and is empty where everything
    goes to the first device. `notes` are sentences about options that do not apply.
    `message` says why it does not fit, and `choices` what would. `options` are what to load
    with: without those that do not apply, and with the context that is planned.

    `cache_tokens` is what the fast runner's KV cache on a card gets, the context at least, and
    is fixed at load. 0 where another runner's caches grow as they are needed; then one context
    is counted.
    """

    devices: tuple[DevicePlan, ...]
    placement: Mapping[str, str]
    context_length: int
    weights: str
    fits: bool
    message: str = ""
    choices: tuple[Choice, ...] = ()
    notes: tuple[str, ...] = ()
    options: LoadOptions = field(default_factory=LoadOptions)
    cache_tokens: int = 0

    @property
    def remedy(self) -> str:
        """What to do about `message`, in one sentence."""
        if not self.choices:
            return "Choose a smaller model, or end other programs that use the memory."
        labels = [choice.label[:1].lower() + choice.label[1:] for choice in self.choices]
        return f"This would fit: {', or '.join(labels)}."


def make_plan(
    inspection: Inspection,
    options: LoadOptions,
    machine: Machine,
    *,
    adapter_bytes: int = 0,
) -> Plan:
    """Predict the memory of a load on `machine`, and place its layers.

    `adapter_bytes` is the size of the LoRAs over the model. Whether it fits is decided with a KV
    cache of one context; a larger one takes of what is left then.
    """
    options, notes = applicable(inspection, options, machine)
    planner = _Planner(inspection, machine, adapter_bytes)
    plan = planner.with_larger_cache(planner.plan(options))
    choices = () if plan.fits else _choices(planner, options)
    return replace(plan, notes=notes + plan.notes, choices=choices)


class _Planner:
    """Plans one checkpoint on one machine, for any options that apply."""

    def __init__(self, inspection: Inspection, machine: Machine, adapter_bytes: int) -> None:
        self.inspection = inspection
        self.machine = machine
        self._adapter_bytes = adapter_bytes
        self._footprints: dict[tuple[str, str, str, bool], Footprint] = {}

    def plan(self, options: LoadOptions) -> Plan:
        """With the context of `options`; where it has none, the model's own or what fits.

        A context that nobody chose is shortened before anything is offloaded.
        """
        if options.context_length:
            return self._at(options, options.context_length)
        own = self.inspection.context_length or _UNKNOWN_CONTEXT
        least = min(own, _LEAST_CONTEXT)
        on_cards = replace(options, offload=False, disk=False)
        for tried in dict.fromkeys([on_cards, options]):
            most = self.largest_context(tried, least, own)
            if most:
                plan = self._at(tried, most)
                # Later loads by the same options may offload again.
                found = replace(plan.options, offload=options.offload, disk=options.disk)
                plan = replace(plan, options=found)
                if most == own:
                    return plan
                return replace(plan, notes=(*plan.notes, _shortened(own, most)))
        return self._at(options, least)

    def largest_context(self, options: LoadOptions, least: int, most: int) -> int:
        """The most tokens from `least` to `most` that fit, in whole steps below `most`; or 0."""
        if self._at(options, most).fits:
            return most
        low, high = -(-least // _STEP), most // _STEP
        if not self._at(options, low * _STEP).fits:
            return 0
        while low < high:
            middle = (low + high + 1) // 2
            if self._at(options, middle * _STEP).fits:
                low = middle
            else:
                high = middle - 1
        return low * _STEP

    def with_larger_cache(self, plan: Plan) -> Plan:
        """`plan`, where it is for the fast runner on one card with as large a cache as there
        is room for.
        """
        device, asked, context = plan.devices[0], plan.options.cache_tokens, plan.context_length
        if not plan.fits:
            return plan
        token = sum(unit.kv_token for unit in self._footprint(plan.options).units)
        on_card = len(plan.devices) == 1 and device.device.startswith("cuda")
        if not (token and on_card and serves(self.inspection, context)):
            return self._without_wish(plan) if asked else plan
        tokens = cache_tokens(context, (device.capacity - device.used) // token, asked)
        larger = replace(device, kv_cache=tokens * token)
        notes = (_smaller_cache(asked, tokens),) if asked > tokens else ()
        return replace(plan, devices=(larger,), cache_tokens=tokens, notes=plan.notes + notes)

    def _without_wish(self, plan: Plan) -> Plan:
        note = (
            f"The KV caches of {self.inspection.name} grow with its chats, "
            "so --cache-tokens was passed over."
        )
        options = replace(plan.options, cache_tokens=0)
        return replace(plan, options=options, notes=(*plan.notes, note))

    def _at(self, options: LoadOptions, context: int) -> Plan:
        """With exactly this context; with a cache in 16 bits where the fast runner has no part."""
        plan = self._placed(options, context)
        one = len(plan.devices) == 1
        if options.cache_type == "16-bit" or (one and serves(self.inspection, context)):
            return plan
        plan = self._placed(replace(options, cache_type="16-bit"), context)
        return replace(plan, notes=(*plan.notes, cache_type_note(self.inspection.name)))

    def _placed(self, options: LoadOptions, context: int) -> Plan:
        model = self._footprint(options)
        layout = self._layout(model, options, context)
        adapters = self._adapter_bytes // max(1, sum(unit.layer for unit in model.units))
        costs = [
            Cost(
                unit.weights + (adapters if unit.layer else 0),
                unit.kv_token * context,
                unit.largest,
            )
            for unit in model.units
        ]
        found = layout.place(costs)
        numbers = found or layout.place_anyhow(costs)
        devices = _devices(model, layout, numbers, costs)
        message = "" if found else _refusal(self.inspection.name, devices, context)
        return Plan(
            devices=devices,
            placement=_placement(model, layout, numbers),
            context_length=context,
            weights=model.weights,
            fits=found is not None,
            message=message,
            options=replace(options, context_length=context),
        )

    def _footprint(self, options: LoadOptions) -> Footprint:
        card = options.device == "auto" and bool(self.machine.cards)
        key = (options.quantize, options.dtype, options.cache_type, card)
        if key not in self._footprints:
            self._footprints[key] = footprint(self.inspection, options, card=card)
        return self._footprints[key]

    def _layout(self, model: Footprint, options: LoadOptions, context: int) -> Layout:
        machine = self.machine
        cards = machine.cards if options.device == "auto" else ()
        workspace = model.workspace(context, card=bool(cards))
        fast = cards and serves(self.inspection, context)
        alone = model.fast_workspace(context) if fast else workspace
        beside = PROCESSOR_WORKSPACE if cards else workspace
        most = options.cpu_memory + beside if options.cpu_memory else machine.ram_free
        processor = Place("cpu", "processor", min(machine.ram_free, most), beside, beside)
        disk = (Place("disk", "disk", machine.disk_free, 0, 0),) if options.disk else ()
        if not cards:
            return Layout((processor,), disk)
        limits = dict(enumerate(options.gpu_memory))
        computing = tuple(
            Place(
                f"cuda:{card.index}",
                card.name,
                min(card.free, limits.get(card.index) or card.free),
                workspace,
                alone,
            )
            for card in cards
        )
        held = (processor, *disk) if options.offload or options.disk else ()
        return Layout(computing, held)


def _devices(
    model: Footprint, layout: Layout, numbers: list[int], costs: list[Cost]
) -> tuple[DevicePlan, ...]:
    """What lies where; what a store holds is computed, and cached, by the first device."""
    computing = len(layout.computing)
    first, alone = min(numbers), len(set(numbers)) == 1
    devices = []
    for number, place in enumerate(layout.places):
        here = [i for i, at in enumerate(numbers) if at == number]
        if not here:
            continue
        stored = [i for i, at in enumerate(numbers) if at >= computing and number == first]
        cached = (here if number < computing else []) + stored
        weights = sum(model.units[i].weights for i in here)
        staging = max((costs[i].piece for i in stored), default=0)
        devices.append(
            DevicePlan(
                device=place.device,
                name=place.name,
                capacity=place.capacity,
                weights=weights,
                kv_cache=sum(costs[i].cache for i in cached),
                adapters=sum(costs[i].held for i in here) - weights,
                workspace=(place.alone if alone else place.workspace) + staging,
            )
        )
    return tuple(devices)


def _placement(model: Footprint, layout: Layout, numbers: list[int]) -> dict[str, str]:
    if len(set(numbers)) == 1:
        device = layout.places[numbers[0]].device
        return {} if device in ("cpu", "cuda:0") else {"": device}
    return {
        module: layout.places[number].device
        for unit, number in zip(model.units, numbers, strict=True)
        for module in unit.modules
    }


def _refusal(name: str, devices: tuple[DevicePlan, ...], context: int) -> str:
    needed = sum(device.used for device in devices)
    free = sum(device.capacity for device in devices)
    parts = {
        "weights": sum(device.weights for device in devices),
        "KV cache": sum(device.kv_cache for device in devices),
        "LoRAs": sum(device.adapters for device in devices),
        "workspace": sum(device.workspace for device in devices),
    }
    listed = ", ".join(f"{what} {_gb(size)}" for what, size in parts.items() if size)
    where = " and ".join(
        "the processor" if device.device == "cpu" else device.device for device in devices
    )
    # Whole layers may not fit into what is left on each device, though the sum would do.
    pieces = ", in pieces that layers are too large for" if needed <= free else ""
    return (
        f"{name} needs {_gb(needed)} GB for a context of {context:,} tokens ({listed}), "
        f"and {_gb(free)} GB are free on {where}{pieces}."
    )


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f}" if size >= 10**10 else f"{size / 1e9:.2f}"


def _shortened(own: int, context: int) -> str:
    return (
        f"The memory is enough for a context of {context:,} tokens, and not for the model's own "
        f"{own:,}."
    )


def _smaller_cache(asked: int, tokens: int) -> str:
    return (
        f"The memory is enough for a KV cache of {tokens:,} tokens, and not for the {asked:,} "
        "of --cache-tokens."
    )


# -- what would fit ---------------------------------------------------------------------


def _choices(planner: _Planner, options: LoadOptions) -> tuple[Choice, ...]:
    """Single changes that make it fit, each of them planned; two at once before the disk."""
    single = _fitting(planner, options, [{}, *_changes(planner, options)])
    if any("disk" not in choice.changes for choice in single):
        return single
    stronger = [
        change
        for change in _changes(planner, options)
        if ("offload" in change or "quantize" in change) and "disk" not in change
    ]
    both = [a | b for a in stronger for b in stronger if "quantize" in a and "offload" in b]
    double = _fitting(planner, options, stronger, shorten=True) or _fitting(planner, options, both)
    return tuple({choice.label: choice for choice in double + single}.values())


def _changes(planner: _Planner, options: LoadOptions) -> Iterator[dict[str, Any]]:
    """What could be chosen otherwise, the mildest first."""
    cards = planner.machine.cards
    processor = options.device == "cpu" or not cards
    if options.cache_type == "16-bit" and planner.inspection.model_type in FAMILY:
        yield {"cache_type": "8-bit"}
    if not is_quantized(planner.inspection):
        if processor and options.dtype in ("auto", "float32") and options.quantize == "none":
            yield {"dtype": "bfloat16"}
        if options.quantize == "none":
            yield {"quantize": "8bit"}
        if options.quantize != "4bit":
            yield {"quantize": "4bit"}
    if any(options.gpu_memory):
        yield {"gpu_memory": ()}
    if options.cpu_memory:
        yield {"cpu_memory": 0}
    if cards and processor:
        yield {"device": "auto"}
    if not processor and not options.offload:
        yield {"offload": True}
    if not options.disk and options.quantize == "none":
        yield {"offload": True, "disk": True}
    if not processor:
        yield {"device": "cpu"}


def _fitting(
    planner: _Planner,
    options: LoadOptions,
    changes: Iterable[dict[str, Any]],
    *,
    shorten: bool = False,
) -> tuple[Choice, ...]:
    """Those of the changes with which it fits; an empty one stands for a shorter context."""
    present = planner.plan(options).context_length
    found: dict[str, Choice] = {}
    for change in changes:
        changed = replace(options, **change)
        if shorten or not change:
            most = planner.largest_context(changed, _STEP, present)
            if not most:
                continue
            change = change | {"context_length": most}
            changed = replace(changed, context_length=most)
        plan = planner.plan(changed)
        passed_over = "cache_type" in change and plan.options.cache_type != changed.cache_type
        if plan.fits and not passed_over:
            # One that also allows the disk comes out the same where the disk is not needed.
            choice = Choice(_label(change, plan), change)
            found.setdefault(choice.label, choice)
    return tuple(found.values())


def _label(change: dict[str, Any], plan: Plan) -> str:
    words = []
    if "cache_type" in change:
        words.append("a KV cache in 8 bits")
    if "dtype" in change:
        words.append(f"{change['dtype']} weights")
    if "quantize" in change:
        words.append(f"{change['quantize'].removesuffix('bit')}-bit weights")
    if "gpu_memory" in change:
        words.append("no limit on the cards")
    if "cpu_memory" in change:
        words.append("no limit on the processor's memory")
    if "device" in change:
        words.append("the processor alone" if change["device"] == "cpu" else "the card")
    if "offload" in change:
        layers = [at for name, at in plan.placement.items() if name[-1].isdigit()]
        for device, where in (("cpu", "in the processor's memory"), ("disk", "on the disk")):
            if device in layers:
                words.append(f"{layers.count(device)} of {len(layers)} layers {where}")
    if "context_length" in change:
        words.append(f"a context of {change['context_length']:,} tokens")
    text = " and ".join(words)
    return text[:1].upper() + text[1:]
