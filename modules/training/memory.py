"""`TrainingPlan`: what a run will take in memory, and what it is to choose so that it fits.

The terms are those of `memory_costs.py`. What the config leaves open is chosen here: whether a
quantized base is dequantized once, whether gradients are checkpointed, and how much is computed
at once. The faster choice is taken wherever it fits.

A base that no card holds is spread over n cards (`trainer/sharded.py`): of B bytes each holds
B / n, and beside that, in the workspace, what is gathered of the others, which is

    max(3 l, 2 h)   for l bytes of a layer: one that is computed, and the next as it arrives and
                    as it is put in its place; h is that of the embeddings, or of the head
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from modules.loader.inspect import Inspection
from modules.loader.machine import Machine
from modules.training.config import TrainingConfig
from modules.training.memory_costs import CONSTANTS, Costs

__all__ = ["TrainingPlan", "Workload", "make_training_plan"]

_ENOUGH_CARD, _ENOUGH_PROCESSOR = 8192, 1024
"""Tokens at once above which nothing becomes faster."""
_ENOUGH_CHECKPOINTED = 4096
_WORTH_IT = 1024
"""Tokens at once below which a card is faster with checkpointing and more of them."""
_LEAST_STEPS = 8
"""Steps of an epoch that a micro batch nobody chose leaves, where the data is small."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is computed: the tokens of a pack (or of the longest row), and how many there are of
    them in an epoch; 0 where the data has not been looked at, and the config's length counts.
    """

    tokens: int = 0
    units: int = 0


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """Bytes on one device, and the choices that lead to them.

    `capacity` is what may be used of the device. `once` says that a quantized base is turned
    into 16 bits before the first step; `kept_layers` are those that keep their activations in
    spite of `checkpointing`. `tokens` are computed at once. `steps_aside` says that it fits
    only without the chat model. `predicted_bytes` is what the run will tell of its memory.
    `shares` is the number of cards that the base is spread over, 1 where each holds all of it;
    `loaders` of the processes read it at the same time, before they keep their share.
    `notes` are sentences for people, `message` says why it does not fit.
    """

    device: str
    name: str
    capacity: int
    base: int
    lora: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    workspace: int
    predicted_bytes: int
    micro_batch_size: int
    tokens: int
    checkpointing: bool
    once: bool
    fits: bool
    kept_layers: int = 0
    steps_aside: bool = False
    parameters: int = 0
    shares: int = 1
    loaders: int = 0
    notes: tuple[str, ...] = ()
    message: str = ""
    remedy: str = ""

    @property
    def parts(self) -> tuple[tuple[str, int], ...]:
        """The pieces of a stacked bar, from the largest that stays to what comes and goes."""
        return (
            ("base", self.base),
            ("LoRA", self.lora),
            ("gradients", self.gradients),
            ("optimizer", self.optimizer),
            ("activations", self.activations),
            ("logits", self.logits),
            ("workspace", self.workspace),
        )

    @property
    def used(self) -> int:
        """All of it."""
        return sum(size for _, size in self.parts)


def make_training_plan(
    config: TrainingConfig,
    about: Inspection,
    machine: Machine,
    work: Workload | None = None,
    *,
    without_chat: Machine | None = None,
    processes: int = 0,
) -> TrainingPlan:
    """Plan a run on `machine` as it is now, by so many processes; 0: one on each of its cards,
    as far as the config takes them.

    `without_chat` is the machine as it would be without the chat model, if there is one: where
    the run fits on that alone, the plan is for it, and says so.
    """
    work = work or Workload()
    plan = _best(config, about, machine, work, processes)
    if not plan.fits and without_chat is not None:
        alone = _best(config, about, without_chat, work, processes)
        if alone.fits:
            told = "Chat and training do not both fit: the chat model steps aside and comes back."
            return replace(alone, steps_aside=True, notes=(told, *alone.notes))
    if plan.fits:
        return plan
    room = without_chat or machine
    return replace(plan, remedy=_remedy(config, about, room, work, processes))


def _best(
    config: TrainingConfig, about: Inspection, machine: Machine, work: Workload, processes: int
) -> TrainingPlan:
    """Each process with all of the base where that fits, else with its share."""
    cards = len(machine.cards)
    count = processes or min(cards, config.processes or cards)
    if config.sharding != "on" or count < 2:
        plan = _Planner(config, about, machine, work).best()
        packed = about.quantization is not None or config.load_in != "as it is"
        if plan.fits or packed or not cards or count < 2 or config.sharding == "off":
            return plan
    return _Planner(config, about, machine, work, count).best()


@dataclass(frozen=True, slots=True)
class _Choice:
    """What is open until the memory decides."""

    once: bool
    checkpointing: bool
    size: int


class _Planner:
    """Plans one config over one base on one machine."""

    def __init__(
        self,
        config: TrainingConfig,
        about: Inspection,
        machine: Machine,
        work: Workload,
        shares: int = 1,
    ) -> None:
        self._config, self._about, self._shares = config, about, shares
        card = min(machine.cards, key=lambda card: card.free, default=None)
        self._costs = Costs(config, about, card=card is not None, plain=shares > 1)
        self._ram = machine.ram_free
        self._device = f"cuda:{card.index}" if card else "cpu"
        self._name = card.name if card else "processor"
        self._capacity = card.free if card else machine.ram_free
        self._card = card is not None
        self._tokens = work.tokens or config.cutoff_len
        self._units = work.units

    def best(self) -> TrainingPlan:
        """The first that fits, the fastest first; else the smallest there is."""
        plan = None
        for choice in self._choices():
            plan = self._plan(choice)
            if plan.fits:
                return self._loaded(self._told(self._with_kept_layers(plan)))
        assert plan is not None
        return replace(self._told(plan), message=self._message(plan))

    def _choices(self) -> Iterator[_Choice]:
        sizes = self._sizes()
        worth = [size for size in sizes if size * self._tokens >= _WORTH_IT] or sizes[:1]
        for once in self._onces():
            if self._config.gradient_checkpointing == "automatic":
                yield from (_Choice(once, False, size) for size in worth)
            checkpointing = self._config.gradient_checkpointing != "off"
            for size in self._smaller(sizes) if checkpointing else sizes:
                yield _Choice(once, checkpointing, size)

    def _onces(self) -> tuple[bool, ...]:
        """Layer by layer is for a base that does not fit as a whole."""
        chosen = {"once": (True,), "by layer": (False,)}.get(self._config.dequantize)
        packed = self._costs.quantized
        by_wish = self._config.load_in != "as it is" and self._about.quantization is None
        if not packed or (by_wish and chosen is None):
            return (False,)
        return (True,) if self._shares > 1 else chosen or (True, False)

    def _sizes(self) -> list[int]:
        """Micro batches to try, the largest first."""
        if self._config.micro_batch_size:
            return [self._config.micro_batch_size]
        enough = _ENOUGH_CARD if self._card else _ENOUGH_PROCESSOR
        most = max(1, enough // self._tokens)
        if self._units:
            most = min(most, max(1, self._units // _LEAST_STEPS))
        return list(range(most, 0, -1))

    def _smaller(self, sizes: list[int]) -> list[int]:
        """With checkpointing, what more than enough would take is better spent on layers that
        are not computed twice.
        """
        kept = [size for size in sizes if size * self._tokens <= _ENOUGH_CHECKPOINTED]
        return kept or sizes[-1:]

    def _plan(self, choice: _Choice, kept_layers: int = 0) -> TrainingPlan:
        costs, tokens = self._costs, choice.size * self._tokens
        plan = TrainingPlan(
            device=self._device,
            name=self._name,
            capacity=self._capacity,
            base=self._share_of_base(choice.once),
            lora=costs.lora,
            gradients=costs.gradients,
            optimizer=costs.state,
            activations=costs.activations(
                tokens, checkpointing=choice.checkpointing, kept_layers=kept_layers
            ),
            logits=costs.beside(tokens),
            workspace=costs.workspace(once=choice.once) + self._gathered(choice.once),
            predicted_bytes=0,
            micro_batch_size=choice.size,
            tokens=tokens,
            checkpointing=choice.checkpointing,
            once=choice.once and costs.quantized,
            fits=False,
            kept_layers=kept_layers,
            parameters=costs.parameters,
            shares=self._shares,
        )
        return replace(
            plan,
            predicted_bytes=plan.used - costs.unseen,
            fits=plan.used <= plan.capacity * CONSTANTS.margin,
        )

    @property
    def _matrix(self) -> int:
        """The bytes of the embeddings, or of the head."""
        return self._about.vocabulary * self._about.hidden_size * self._costs.size

    def _share_of_base(self, once: bool) -> int:
        """What a process keeps of it: embeddings that are the head as well, or that are trained,
        stay whole.
        """
        base, config = self._costs.base(once=once), self._config
        matrices = 1 if self._about.tied_head else config.train_embeddings + config.train_head
        whole = matrices * self._matrix
        return whole + (base - whole) // self._shares

    def _gathered(self, once: bool) -> int:
        """What is there of the shares of others at the same time."""
        if self._shares == 1:
            return 0
        ends = self._matrix * (1 if self._about.tied_head else 2)
        layer = (self._costs.base(once=once) - ends) // self._about.layers
        return max(3 * layer, 2 * self._matrix)

    def _loaded(self, plan: TrainingPlan) -> TrainingPlan:
        """How a base that is spread gets there: each process reads it into the processor's
        memory, as many at the same time as there is room for.
        """
        if self._shares == 1:
            return plan
        whole = self._costs.base(once=plan.once)
        loaders = min(self._shares, self._ram // whole)
        if loaders == 0:
            message = (
                f"A base that is spread over cards is read into the processor's memory first, "
                f"which takes {_gb(whole)} GB, and {_gb(self._ram)} GB are free there."
            )
            return replace(plan, fits=False, loaders=1, message=message)
        why = "" if self._config.sharding == "on" else "One card does not hold the base: "
        told = (
            f"{why}{self._shares} processes share its weights, and gather each layer when it is "
            f"computed. Each of them reads all of it into the processor's memory first "
            f"({_gb(whole)} GB, {loaders} at a time)."
        )
        return replace(plan, loaders=loaders, notes=(told, *plan.notes))

    def _with_kept_layers(self, plan: TrainingPlan) -> TrainingPlan:
        """Of a checkpointed model, as many layers as there is room for need not be computed
        twice: where our own layers compute it, and nobody asked for checkpointing.
        """
        automatic = self._config.gradient_checkpointing == "automatic"
        if not plan.checkpointing or self._costs.path != "fast" or not automatic:
            return plan
        choice = _Choice(plan.once, True, plan.micro_batch_size)
        for count in range(self._about.layers - 1, 0, -1):
            richer = self._plan(choice, count)
            if richer.fits:
                return richer
        return plan

    def _told(self, plan: TrainingPlan) -> TrainingPlan:
        notes = []
        if self._costs.quantized and not self._config.load_in.endswith("bit"):
            how = "once, which is faster" if plan.once else "layer by layer, to save memory"
            notes.append(f"The quantized base is dequantized {how}.")
        if plan.checkpointing and self._config.gradient_checkpointing == "automatic":
            again = self._about.layers - plan.kept_layers
            notes.append(
                f"{again} of {self._about.layers} layers are computed twice, to save memory "
                "(gradient checkpointing)."
            )
        return replace(plan, notes=tuple(notes))

    def _message(self, plan: TrainingPlan) -> str:
        where = "the processor" if plan.device == "cpu" else plan.device
        each = f" on each of {plan.shares} cards" if plan.shares > 1 else ""
        listed = ", ".join(f"{what} {_gb(size)}" for what, size in plan.parts if size)
        return (
            f"Training on {self._about.name} needs {_gb(plan.used)} GB{each} ({listed}), and "
            f"{_gb(plan.capacity)} GB are free on {where}."
        )


def _remedy(
    config: TrainingConfig, about: Inspection, machine: Machine, work: Workload, processes: int
) -> str:
    """Single changes with which it would fit, the mildest of each kind."""
    fitting: dict[str, str] = {}
    for label, changes in _changes(config, about):
        least = min(work.tokens or config.cutoff_len, changes.get("cutoff_len", config.cutoff_len))
        changed = replace(config, **changes)
        if _best(changed, about, machine, replace(work, tokens=least), processes).fits:
            fitting.setdefault("".join(changes), label)
    if not fitting:
        return "Choose a smaller base, or end other programs that use the memory."
    return f"This would fit: {', '.join(fitting.values())}."


def _changes(config: TrainingConfig, about: Inspection) -> Iterator[tuple[str, dict[str, Any]]]:
    if config.micro_batch_size > 1:
        yield "an automatic micro batch", {"micro_batch_size": 0}
    if config.gradient_checkpointing == "off":
        yield "gradient checkpointing", {"gradient_checkpointing": "automatic"}
    if config.sharding == "off":
        yield "a base that the cards share (sharding)", {"sharding": "automatic"}
    if config.dequantize == "once":
        yield "a base that is dequantized layer by layer", {"dequantize": "automatic"}
    for length in (config.cutoff_len // 2, config.cutoff_len // 4):
        if length >= 64:
            yield f"a length of {length:,}", {"cutoff_len": length // 16 * 16}
    if about.quantization is None:
        for kind in ("8bit", "4bit"):
            if config.load_in in ("as it is", "8bit") and config.load_in != kind:
                yield f"a base in {kind[0]} bits", {"load_in": kind, "sharding": "automatic"}
    if config.optimizer == "adamw":
        yield "optimizer: adafactor", {"optimizer": "adafactor"}


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f}" if size >= 10**10 else f"{size / 1e9:.2f}"
