"""`TrainingConfig`: everything that one run is told, described once.

Each field is a key of the YAML file and a control of the Training tab, and carries the `Knob`
from which both are made and checked. A run is repeated by giving the same file again.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from modules.engine.knobs import Knob, checked, knob_field
from modules.errors import InvalidInputError

__all__ = [
    "GROUPS",
    "SIMPLE",
    "TARGETS",
    "DatasetSource",
    "TrainingConfig",
    "training_knobs",
]

GROUPS = (
    "Run",
    "Data",
    "LoRA",
    "Length",
    "Optimization",
    "Memory and speed",
    "Evaluation",
    "Saving and stopping",
)
"""The order of the groups in the page."""

SIMPLE = ("lora_r", "learning_rate", "epochs")
"""The three sliders of the simple view."""

TARGETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "all": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
        "q and v": ("q_proj", "v_proj"),
        "mlp": ("gate_proj", "up_proj", "down_proj"),
    }
)
"""Named sets of `target_modules`, in Llama's names."""

_MOST_DATASETS = 32


@dataclass(frozen=True, slots=True)
class DatasetSource:
    """One set of rows. `path` is a file or folder, relative to the place of the config or absolute.

    `weight` is how often its rows are seen an epoch: 0.5 is every second row, 2 is each twice.
    `columns` maps entries of `examples.COLUMNS` to columns of the file, where their names do
    not say what they are. `format` names a format file in the old `%instruction%` manner.
    """

    path: str
    weight: float = 1.0
    columns: Mapping[str, str] = field(default_factory=dict)
    format: str = ""

    def __post_init__(self) -> None:
        weight = Knob("Weight", "Data", "", "number", 1.0, 0.01, 100.0)
        object.__setattr__(self, "weight", checked("weight", weight, self.weight))
        if not self.path or len(self.path) > 4096:
            raise InvalidInputError("A dataset has no path.", "Name a file or folder.", "path")


def _knob(kind: Any, default: Any, bounds: tuple[float, ...] = (), **about: Any) -> Any:
    least, most, step = (*bounds, 0, 0, 0)[:3]
    knob = Knob(kind=kind, neutral=default, minimum=least, maximum=most, step=step, **about)
    return knob_field(knob, default)


_number = functools.partial(_knob, "number")
_integer = functools.partial(_knob, "integer")
_switch = functools.partial(_knob, "switch")


def _choice(default: str, choices: Sequence[str], **about: Any) -> Any:
    return _knob("choice", default, choices=tuple(choices), **about)


def _text(default: str, characters: int, **about: Any) -> Any:
    return _knob("text", default, (0, characters), **about)


def _strings(default: tuple[str, ...], count: int, **about: Any) -> Any:
    return _knob("strings", default, (0, count), **about)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """What is trained, on what, and how. Checked on construction.

    Raises InvalidInputError, naming the field, for a value out of its bounds, and for two that
    contradict each other.
    """

    datasets: tuple[DatasetSource, ...] = ()
    """What is learnt, mixed by weight."""

    eval_datasets: tuple[DatasetSource, ...] = ()
    """What the evaluation loss is computed on; without any, a share of `datasets` if asked for."""

    name: str = _text(
        "",
        100,
        label="Name",
        group="Run",
        help="The folder in loras/ that the finished LoRA gets.",
        example="my-lora",
    )
    base: str = _text(
        "",
        200,
        label="Base model",
        group="Run",
        help="The folder in models/ that the LoRA is trained on; 16-bit, GPTQ and AWQ alike.",
    )
    continue_from: str = _text(
        "",
        200,
        label="Continue a LoRA",
        group="Run",
        help="A LoRA in loras/ to begin with instead of a new one; its rank and targets stay.",
    )
    seed: int = _integer(
        0,
        (0, 2**31 - 1, 1),
        label="Seed",
        group="Run",
        help="The same seed gives the same order of rows and the same first weights.",
    )

    template: str = _text(
        "",
        200,
        label="Chat template",
        group="Data",
        help="The chat template that conversations are rendered with; empty: the model's own.",
    )
    learn: str = _choice(
        "replies",
        ("replies", "last reply", "everything"),
        label="Learn from",
        group="Data",
        help="Which text the loss counts: all replies, the last one, or questions as well.",
    )
    add_eos: bool = _switch(
        True,
        label="End plain text",
        group="Data",
        help="Adds the end token after plain text, so that the model learns where it ends.",
    )
    eval_split: float = _number(
        0.0,
        (0, 0.5, 0.01),
        label="Evaluation share",
        group="Data",
        help="This share of the rows is kept apart, and the loss on it shows overfitting.",
    )

    lora_r: int = _integer(
        16,
        (1, 1024, 1),
        label="Rank",
        group="LoRA",
        help="How much a LoRA can learn: 8 to 16 for a style, 32 to 64 for new facts or formats.",
        source="arxiv.org/abs/2106.09685",
    )
    lora_alpha: float = _number(
        32.0,
        (1, 2048, 1),
        label="Alpha",
        group="LoRA",
        help="The strength of the LoRA; its change is multiplied by alpha / rank.",
    )
    lora_dropout: float = _number(
        0.0,
        (0, 0.9, 0.01),
        label="Dropout",
        group="LoRA",
        help="Share of inputs that are left out at random, against overfitting small sets.",
    )
    target_modules: tuple[str, ...] = _strings(
        ("all",),
        32,
        label="Target modules",
        group="LoRA",
        help="all, attention, q and v, mlp, or the names of modules, one a line.",
    )
    use_rslora: bool = _switch(
        False,
        label="rsLoRA",
        group="LoRA",
        help="Scales by alpha / square root of the rank, which suits ranks above 32.",
        source="arxiv.org/abs/2312.03732",
    )
    use_dora: bool = _switch(
        False,
        label="DoRA",
        group="LoRA",
        help="Learns the length of each weight row apart from its direction; slower, often better.",
        source="arxiv.org/abs/2402.09353",
    )
    init_lora_weights: str = _choice(
        "default",
        ("default", "gaussian", "pissa"),
        label="Start",
        group="LoRA",
        help="How the LoRA begins: default changes nothing yet; pissa begins with the largest "
        "directions of the weights.",
        source="arxiv.org/abs/2404.02948",
    )
    train_embeddings: bool = _switch(
        False,
        label="Train embeddings",
        group="LoRA",
        help="Trains a full copy of the token embeddings as well, for new words or scripts.",
    )
    train_head: bool = _switch(
        False,
        label="Train head",
        group="LoRA",
        help="Trains a full copy of the output head as well.",
    )

    cutoff_len: int = _integer(
        1024,
        (16, 131072, 16),
        label="Length",
        group="Length",
        help="The most tokens that a row may have, and those of a pack.",
    )
    overlong: str = _choice(
        "truncate",
        ("truncate", "drop"),
        label="Longer rows",
        group="Length",
        help="What happens to rows above the length: they lose their end, or are left out.",
    )
    overlap_len: int = _integer(
        128,
        (0, 4096, 16),
        label="Overlap of raw text",
        group="Length",
        help="Tokens that a piece of raw text shares with the one before it, half of it at most.",
    )
    newline_favor_len: int = _integer(
        128,
        (0, 4096, 16),
        label="Prefer newlines within",
        group="Length",
        help="Characters by which a cut in raw text may move to fall on a line break.",
    )
    hard_cut_string: str = _text(
        "\\n\\n\\n",
        100,
        label="Hard cut",
        group="Length",
        help="Where raw text is always cut; \\n stands for a line break.",
    )
    min_chars: int = _integer(
        0,
        (0, 1000, 1),
        label="Ignore small blocks",
        group="Length",
        help="Blocks of raw text between hard cuts with fewer characters are left out.",
    )
    batching: str = _choice(
        "packed",
        ("packed", "sorted", "padded"),
        label="Batches",
        group="Length",
        help="packed wastes no token; sorted puts rows of like length together; padded keeps "
        "their order.",
    )

    epochs: float = _number(
        3.0,
        (0.1, 100, 0.1),
        label="Epochs",
        group="Optimization",
        help="How often every row is seen.",
    )
    max_steps: int = _integer(
        0,
        (0, 10_000_000, 1),
        label="Most steps",
        group="Optimization",
        help="Ends the run after this many steps; 0: when the epochs are done.",
    )
    micro_batch_size: int = _integer(
        0,
        (0, 128, 1),
        label="Micro batch",
        group="Optimization",
        help="Rows (or packs) computed at once; 0: as many as the memory plan allows.",
    )
    gradient_accumulation_steps: int = _integer(
        1,
        (1, 1024, 1),
        label="Accumulation",
        group="Optimization",
        help="Micro batches whose gradients are added up before a step.",
    )
    learning_rate: float = _number(
        2e-4,
        (1e-7, 1.0, 1e-5),
        label="Learning rate",
        group="Optimization",
        help="The size of a step; 0.0001 to 0.0003 suits most LoRAs.",
    )
    lr_scheduler: str = _choice(
        "cosine",
        (
            "linear",
            "constant",
            "constant_with_warmup",
            "cosine",
            "cosine_with_restarts",
            "polynomial",
            "inverse_sqrt",
        ),
        label="Scheduler",
        group="Optimization",
        help="How the learning rate falls in the course of the run.",
    )
    warmup_steps: int = _integer(
        0,
        (0, 100_000, 1),
        label="Warmup steps",
        group="Optimization",
        help="Steps in which the learning rate rises from nothing.",
    )
    warmup_ratio: float = _number(
        0.03,
        (0, 0.5, 0.01),
        label="Warmup share",
        group="Optimization",
        help="The same as a share of all steps; counts where warmup steps is 0.",
    )
    optimizer: str = _choice(
        "adamw",
        ("adamw", "adamw_8bit", "adafactor", "sgd"),
        label="Optimizer",
        group="Optimization",
        help="adamw is fused where it can be; adamw_8bit and adafactor need less memory.",
    )
    weight_decay: float = _number(
        0.0,
        (0, 1, 0.01),
        label="Weight decay",
        group="Optimization",
        help="Pulls the weights of the LoRA towards zero.",
    )
    max_grad_norm: float = _number(
        1.0,
        (0, 100, 0.1),
        label="Clip gradients",
        group="Optimization",
        help="Gradients with a larger norm are scaled down to it; 0: never.",
    )
    loraplus_lr_ratio: float = _number(
        0.0,
        (0, 64, 1),
        label="LoRA+ ratio",
        group="Optimization",
        help="The learning rate of B is this many times that of A; 0 and 1: the same.",
        source="arxiv.org/abs/2402.12354",
    )
    neftune_noise_alpha: float = _number(
        0.0,
        (0, 30, 1),
        label="NEFTune",
        group="Optimization",
        help="Noise on the embeddings, which makes replies of small sets less parroted; 0: none.",
        source="arxiv.org/abs/2310.05914",
    )

    load_in: str = _choice(
        "as it is",
        ("as it is", "8bit", "4bit"),
        label="Load the base in",
        group="Memory and speed",
        help="Quantize a 16-bit base while it is read, to train within less memory.",
    )
    dequantize: str = _choice(
        "automatic",
        ("automatic", "once", "by layer"),
        label="Quantized base",
        group="Memory and speed",
        help="Turn it into 16-bit once, which is faster, or layer by layer, which is smaller.",
    )
    precision: str = _choice(
        "automatic",
        ("automatic", "bf16", "fp16", "fp32"),
        label="Precision",
        group="Memory and speed",
        help="What is computed in: bf16 on cards that have it, fp32 on the processor.",
    )
    gradient_checkpointing: str = _choice(
        "automatic",
        ("automatic", "on", "off"),
        label="Gradient checkpointing",
        group="Memory and speed",
        help="Computes layers twice instead of keeping them: a third slower, far less memory.",
    )
    sharding: str = _choice(
        "automatic",
        ("automatic", "on", "off"),
        label="Spread the base",
        group="Memory and speed",
        help="Several cards share the weights of one base (FSDP); automatic: where one card does "
        "not hold it. Slower than a whole base on each.",
    )
    processes: int = _integer(
        0,
        (0, 64, 1),
        label="Graphics cards",
        group="Memory and speed",
        help="Cards to train on; 0: all that are there.",
    )

    eval_steps: int = _integer(
        0,
        (0, 100_000, 1),
        label="Evaluate every",
        group="Evaluation",
        help="Steps between evaluations; 0: ten times in the run.",
    )
    patience: int = _integer(
        0,
        (0, 100, 1),
        label="Patience",
        group="Evaluation",
        help="Ends the run after this many evaluations without a better loss; 0: never.",
    )
    sample_prompts: tuple[str, ...] = _strings(
        (),
        8,
        label="Sample prompts",
        group="Evaluation",
        help="Answered at every checkpoint, so that one sees what the LoRA learns.",
    )
    sample_tokens: int = _integer(
        64,
        (1, 1024, 1),
        label="Sample length",
        group="Evaluation",
        help="The most tokens of such an answer.",
    )
    held_out: str = _text(
        "",
        4096,
        label="Held-out prompts",
        group="Evaluation",
        help="A file of prompts and what their replies must hold; scored before and after.",
    )
    report_to: str = _choice(
        "none",
        ("none", "tensorboard", "wandb"),
        label="Report to",
        group="Evaluation",
        help="Sends the curves to TensorBoard or Weights & Biases as well.",
    )

    save_steps: int = _integer(
        0,
        (0, 100_000, 1),
        label="Save every",
        group="Saving and stopping",
        help="Steps between checkpoints; 0: at the end of every epoch.",
    )
    save_loss_drop: float = _number(
        0.0,
        (0, 90, 1),
        label="Save when the loss falls by",
        group="Saving and stopping",
        help="Per cent by which the smoothed loss must fall for a checkpoint; 0: never.",
    )
    keep_checkpoints: int = _integer(
        5,
        (1, 1000, 1),
        label="Checkpoints kept",
        group="Saving and stopping",
        help="Older ones are deleted; the best and the last always stay.",
    )
    stop_at_loss: float = _number(
        0.0,
        (0, 10, 0.01),
        label="Stop at loss",
        group="Saving and stopping",
        help="Ends the run when the smoothed loss is that low; 0: never.",
    )

    def __post_init__(self) -> None:
        for name, knob in training_knobs().items():
            object.__setattr__(self, name, checked(name, knob, getattr(self, name)))
        for name in ("datasets", "eval_datasets"):
            sources = getattr(self, name)
            if len(sources) > _MOST_DATASETS:
                raise InvalidInputError(
                    f"There are {len(sources)} {name}; {_MOST_DATASETS} are allowed.",
                    "Put some of them into one folder.",
                    name,
                )
        if self.eval_split and self.eval_datasets:
            raise InvalidInputError(
                "eval_split and eval_datasets are both given.", "Give one of them.", "eval_split"
            )
        for other, given in ((f"load_in: {self.load_in}", self.load_in != "as it is"),
                             ("dequantize: by layer", self.dequantize == "by layer")):  # fmt: skip
            if self.sharding == "on" and given:
                raise InvalidInputError(
                    f"sharding: on and {other} exclude each other.",
                    "Leave sharding automatic: a quantized base is small.",
                    "sharding",
                )
        begun = f"init_lora_weights: {self.init_lora_weights}"
        for other, given in ((begun, self.init_lora_weights == "pissa"),
                             ("use_rslora", self.use_rslora)):  # fmt: skip
            if self.use_dora and given:
                raise InvalidInputError(
                    f"use_dora and {other} exclude each other.", "Choose one of them.", "use_dora"
                )

    @property
    def targets(self) -> tuple[str, ...]:
        """`target_modules` with the named sets written out, each name once."""
        names = (TARGETS.get(name, (name,)) for name in self.target_modules)
        return tuple(dict.fromkeys(itertools.chain.from_iterable(names)))


@functools.cache
def training_knobs() -> Mapping[str, Knob]:
    """The knob of every field that has one, in the order of the fields."""
    fields = dataclasses.fields(TrainingConfig)
    return MappingProxyType({f.name: f.metadata["knob"] for f in fields if "knob" in f.metadata})
