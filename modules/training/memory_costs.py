"""What a training run takes in memory, term by term, from the headers of its base.

Everything that was measured stands in `CONSTANTS`, `_kept` and `_BACKWARD`; the rest follows from
shapes. For a model of L layers, width d, H heads for queries and K for keys of e numbers each,
middle m, vocabulary V, and a LoRA of P parameters and rank r, computed in numbers of s bytes on
T tokens at once:

    base         the weights as the loader holds them (`loader/footprint.py`), or, dequantized
                 once, s bytes each
    LoRA         4 P            in float32: steps of 1e-4 are lost in 16 bits
    gradients    4 P
    optimizer    8 P adamw, 2 P adamw_8bit, 0 sgd; adafactor keeps a row and a column of each
    activations  T s L k        k = a d + b H e + c K e + f m + g r numbers a token and layer;
                 T s (L d + k)  with gradient checkpointing; (a, b, c, f, g) is a `Kept`,
                                and on the processor something is lost to the allocator
    beside       min(T, chunk) V l   the logits of a chunk in the forward, l bytes for each, or
                 T s w          what the backward of one layer takes, if that is more
    workspace    CUDA's context, or Python with torch; the largest layer while it is dequantized

The logits come when all activations are there and go before the backward begins, so that of the
two in the last term but one the larger counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from modules.loader.fast_runner import FAMILY
from modules.loader.footprint import Footprint, footprint
from modules.loader.inspect import Inspection
from modules.loader.options import LoadOptions
from modules.loader.quantization.shapes import is_helper
from modules.training.config import TrainingConfig

__all__ = ["CONSTANTS", "Constants", "Costs", "Path", "lora_parameters", "path_of"]

Path = Literal["fast", "16-bit", "32-bit"]
"""Whose forward and backward it is: our own layers', or autograd's in 16 or in 32 bits."""


@dataclass(frozen=True, slots=True)
class Kept:
    """How many numbers are kept for each token of a layer, in multiples of its sizes."""

    hidden: float
    queries: float
    keys: float
    middle: float
    ranks: float = 0.0

    def numbers(self, about: Inspection, rank: int) -> float:
        """For one token of one layer of that model, under LoRAs of that rank."""
        return (
            self.hidden * about.hidden_size
            + self.queries * about.heads * about.head_dim
            + self.keys * about.kv_heads * about.head_dim
            + self.middle * about.intermediate_size
            + self.ranks * rank
        )


@dataclass(frozen=True, slots=True)
class Constants:
    """What was measured, in bytes where nothing else is said."""

    card_context: int = 500 * 2**20
    """CUDA's context and the code of its kernels, which torch does not count as its own."""
    card_buffers: int = 200 * 2**20
    """cuBLAS' workspace and what else torch takes before there is a batch."""
    card_slack: float = 1.04
    """What torch's allocator reserves, against what lives in it."""
    processor: int = 372 * 2**20
    """Python with torch, transformers and PEFT, the files that they map included."""
    processor_slack: float = 1.19
    processor_holes: float = 1.385
    """What glibc's allocator keeps, against what lives: a share of the activations, and of the
    outputs of each layer with a LoRA, which are made thrice in its forward. Both measured on the
    starter, 256 to 1,024 tokens at once. (Logits are so large that it gives them back.)"""
    logits_16: int = 10
    """Bytes a logit: as it is computed, in float32, and its logarithm."""
    logits_32: int = 8
    chunk: int = 2048
    """Tokens whose logits exist at the same time (`trainer/fast/loss.py`)."""
    margin: float = 0.97
    """The share of the free memory that a plan may fill."""


CONSTANTS = Constants()

_BACKWARD: dict[Path, Kept] = {
    "fast": Kept(hidden=4, queries=3, keys=2, middle=5),
    "16-bit": Kept(hidden=4, queries=3, keys=2, middle=4),
    "32-bit": Kept(hidden=3, queries=2, keys=2, middle=4),
}
"""What the backward of one layer takes beside."""


def _kept(path: Path, changed: frozenset[str]) -> Kept:
    """What the backward of a layer needs of its forward, where LoRAs lie over `changed`."""
    if path == "fast":
        # The residual, twice; queries and what attention made of them; keys, values; gate, up.
        return Kept(hidden=2, queries=2, keys=2, middle=2, ranks=6)
    x_attention, x_mlp = (
        changed & {"q_proj", "k_proj", "v_proj"},
        changed & {"gate_proj", "up_proj"},
    )
    # Gate, its activation, and up; the input of down only for a LoRA.
    middle = 3 + ("down_proj" in changed)
    if path == "16-bit":
        # Norms keep their input in float32, and each LoRA its own copy of x.
        hidden = 4 + len(x_attention) + len(x_mlp)
        return Kept(hidden, 2 + ("o_proj" in changed), 2, middle, len(changed))
    # The input of each norm, and its result where LoRAs take it.
    hidden = 2 + bool(x_attention) + bool(x_mlp)
    return Kept(hidden, 2, 2, middle, len(changed))


_OPTIMIZERS = {"adamw": 8.0, "adamw_8bit": 2.0, "adafactor": 0.2, "sgd": 0.0}
"""Bytes of state for each parameter."""
_FLOAT32 = 4
_SIZES = {"bf16": ("bfloat16", 2), "fp16": ("float16", 2), "fp32": ("float32", 4)}


class Costs:
    """One config over one base, on a card or on the processor. All sizes in bytes.

    `plain` is for weights that our own layers cannot compute with.
    """

    def __init__(
        self, config: TrainingConfig, about: Inspection, *, card: bool, plain: bool = False
    ) -> None:
        self.about, self.card = about, card
        automatic = "bf16" if card else "fp32"
        precision = automatic if config.precision == "automatic" else config.precision
        self.dtype, self.size = _SIZES[precision]
        found = path_of(config, about, card=card)
        self.path: Path = "16-bit" if plain and found == "fast" else found
        self._rank = config.lora_r
        self._model = _footprint(config, about, self.dtype, card=card)
        self.quantized = self._model.dequantized > 0
        self.parameters = lora_parameters(config, about)
        changed = list(_changed(config, about))
        kinds = frozenset(name.rpartition(".")[2] for name, _, _ in changed)
        self._full = _kept(self.path, kinds).numbers(about, config.lora_r)
        self._outputs = sum(outputs for _, outputs, _ in changed)
        self.state = round(self.parameters * _OPTIMIZERS[config.optimizer])

    def base(self, *, once: bool) -> int:
        """The frozen weights; `once`: a quantized base that is turned into 16 (or 32) bits."""
        if not (once and self.quantized):
            return self._model.total
        numbers = sum(size for _, size in _weights(self.about))
        return numbers * self.size

    @property
    def lora(self) -> int:
        """Its parameters; the optimizer's `state` is apart."""
        return self.parameters * _FLOAT32

    @property
    def gradients(self) -> int:
        """Those of the parameters."""
        return self.parameters * _FLOAT32

    def activations(self, tokens: int, *, checkpointing: bool, kept_layers: int = 0) -> int:
        """What the backward needs of the forward; of a checkpointed one `kept_layers` keep all."""
        full, layers = self._full, self.about.layers
        alone = layers - kept_layers if checkpointing else 0
        numbers = (layers - alone) * full
        if alone:
            numbers += alone * self.about.hidden_size + full
        if self.card:
            return round(tokens * self.size * numbers * CONSTANTS.card_slack)
        holes = self._outputs * CONSTANTS.processor_holes
        return round(tokens * self.size * (numbers * CONSTANTS.processor_slack + holes))

    def beside(self, tokens: int) -> int:
        """The logits of a chunk, or what the backward of a layer takes if that is more."""
        each = CONSTANTS.logits_32 if self.size == _FLOAT32 else CONSTANTS.logits_16
        logits = min(tokens, CONSTANTS.chunk) * self.about.vocabulary * each
        numbers = _BACKWARD[self.path].numbers(self.about, self._rank)
        return round(max(logits, tokens * numbers * self.size))

    def workspace(self, *, once: bool) -> int:
        """What the process takes beside, whatever it trains."""
        layer = 0 if once else self._model.dequantized
        if not self.card:
            return CONSTANTS.processor + layer
        return CONSTANTS.card_context + CONSTANTS.card_buffers + layer

    @property
    def unseen(self) -> int:
        """The part of the workspace that a run cannot see of its own memory."""
        return CONSTANTS.card_context if self.card else 0


def path_of(config: TrainingConfig, about: Inspection, *, card: bool) -> Path:
    """Which forward it will be, as far as that can be told without the model."""
    if config.precision == "fp32" or (config.precision == "automatic" and not card):
        return "32-bit"
    plain = not (config.use_dora or config.lora_dropout)
    return "fast" if card and plain and about.model_type in FAMILY else "16-bit"


def lora_parameters(config: TrainingConfig, about: Inspection) -> int:
    """What learns: r (in + out) for each layer that is changed, and copies of what learns whole."""
    total = 0
    for _, outputs, inputs in _changed(config, about):
        total += config.lora_r * (inputs + outputs)
        total += outputs if config.use_dora else 0
    whole = config.train_embeddings + config.train_head
    return total + whole * about.vocabulary * about.hidden_size


def _changed(config: TrainingConfig, about: Inspection) -> Iterator[tuple[str, int, int]]:
    """The name, the outputs and the inputs of each layer that gets a LoRA."""
    for name, outputs, inputs in _linear_layers(about):
        if name.rpartition(".")[2] in config.targets or name in config.targets:
            yield name, outputs, inputs


def _footprint(config: TrainingConfig, about: Inspection, dtype: str, *, card: bool) -> Footprint:
    quantize = "none" if config.load_in == "as it is" or about.quantization else config.load_in
    wishes: dict[str, Any] = {"dtype": dtype, "quantize": quantize}
    options = LoadOptions(device="auto" if card else "cpu", **wishes)
    return footprint(about, options, card=card)


def _linear_layers(about: Inspection) -> Iterator[tuple[str, int, int]]:
    """The name, the outputs and the inputs of everything that may be such a layer."""
    bits = about.quantization.bits if about.quantization else 0
    method = about.quantization.method if about.quantization else ""
    for name, tensor in about.tensors.items():
        layer, _, part = name.rpartition(".")
        if len(tensor.shape) != 2:
            continue
        first, second = tensor.shape
        if part == "weight":
            yield layer, first, second
        elif part == "qweight" and bits:
            packed = 32 // bits if 32 % bits == 0 else 32 / bits
            yield (
                (layer, round(second * packed), first)
                if method == "awq"
                else (layer, second, round(first * packed))
            )


def _weights(about: Inspection) -> Iterator[tuple[str, int]]:
    """Every tensor of the dequantized model, and how many numbers it has."""
    linear = {name: outputs * inputs for name, outputs, inputs in _linear_layers(about)}
    for name, tensor in about.tensors.items():
        layer, _, part = name.rpartition(".")
        tied = about.tied_head and name == "lm_head.weight"
        if tied or is_helper(name) or part == "inv_freq":
            continue
        yield name, linear[layer] if part == "qweight" else math.prod(tensor.shape)
