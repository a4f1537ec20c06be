"""Training of a LoRA: real tokens a second and memory, beside transformers + PEFT in the same run.

    python -m benchmarks.training [--size 7b|small|tiny] [--tokens 8192] [--repeats 6] [--profile]
                                  [--only "packed" "24 GB" ...] [--device cpu]

The shape is Llama-2-7B with random weights in bfloat16, and a LoRA of rank 16 on all seven
projections, with one step of fused AdamW a batch. Lengths of rows are drawn from a log-normal
distribution with a mean of 130 tokens, the longest 1024, as those of Alpaca are; every token but
the first of a row is learnt. Real tokens are those that are no padding.

First, loss and gradients of the fast path, and those of transformers + PEFT, are held against
float32: the fast ones may not be further from it than the others by more than a quarter. The roof
computes 4 operations for each weight of a token's products and each token, at the speed of the
product of this run. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# Batches are of many sizes, which would leave the memory in pieces.
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import torch
from peft import PeftModel
from torch import Tensor

from benchmarks.common import Row, figures_of, shown, table
from benchmarks.random_checkpoint import SIZES
from benchmarks.roof import Roof, measured_roof
from benchmarks.training_model import Batch, drawn_lengths, make_model, packs, padded
from benchmarks.training_model import rows_of_one_length as full
from modules.engine.worker.llama.shape import decoder_of
from modules.training.trainer.attention import NAME
from modules.training.trainer.fast import accelerate_model, keep_activations, layers_that_fit
from modules.training.trainer.fast.check import best_rows
from modules.training.trainer.fast.loss import summed_loss
from modules.training.trainer.fast.take_over import take_over

GOALS = {"packed": 18_000.0, "24 GB": 10_000.0}
_PEER_ROWS = 8
_FULL_LENGTH = 2048
_WARM = 2
_MARGIN = 0.4e9
"""Bytes that are left free where as many layers as fit keep their activations."""
_WORSE, _LEAST = 1.25, 1e-4
"""By how much gradients may be further from those in float32 than those of the plain path are."""

Step = Callable[[PeftModel, Batch], Tensor]


@dataclass(slots=True)
class Bench:
    """One run: where, how long, and what was found so far."""

    options: argparse.Namespace
    roof: Roof
    device: str
    dtype: torch.dtype
    rows: list[Row] = field(default_factory=list)
    check: dict[str, float] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, int]:
        """The shape."""
        return SIZES[self.options.size]

    @property
    def on_card(self) -> bool:
        return self.device == "cuda"

    def wants(self, name: str) -> bool:
        """Whether a measurement was asked for."""
        return not self.options.only or any(word in name for word in self.options.only)

    def tokens(self, most: int) -> int:
        """Tokens of a batch: fewer for a shape that is only tried."""
        return min(most, 1024) if self.options.size == "tiny" else most

    def roof_tokens(self) -> float:
        """Tokens a second if nothing but the products took time."""
        s = self.sizes
        heads = s["num_attention_heads"]
        head_dim = s["hidden_size"] // heads
        attention = s["hidden_size"] * head_dim * 2 * (heads + s["num_key_value_heads"])
        layer = attention + 3 * s["hidden_size"] * s["intermediate_size"]
        weights = s["num_hidden_layers"] * layer + s["hidden_size"] * s["vocab_size"]
        return self.roof.product / (4 * weights)


def ours(model: PeftModel, batch: Batch) -> Tensor:
    """The loss, a mean, as the trainer computes it."""
    inner: Any = model.get_base_model()
    hidden = decoder_of(inner)(**batch.about).last_hidden_state
    return summed_loss(hidden, inner.lm_head.weight, batch.labels) / batch.real


def theirs(model: PeftModel, batch: Batch) -> Tensor:
    """The loss as transformers computes it."""
    loss: Tensor = model(**batch.about, labels=batch.labels).loss
    return loss


# -- one measurement ----------------------------------------------------------------------


def step_of(bench: Bench, model: PeftModel, step: Step, batch: Batch) -> None:
    with torch.autocast(bench.device, bench.dtype, enabled=bench.dtype != torch.float32):
        loss = step(model, batch)
    loss.backward()  # type: ignore[no-untyped-call]


def measure(
    bench: Bench, name: str, model: PeftModel, step: Step, batches: Sequence[Batch], note: str = ""
) -> None:
    """Train on the batches in turn, and note how fast that was. Out of memory is noted, too."""
    try:
        row = timed(bench, name, model, step, batches)
    except torch.OutOfMemoryError:
        row = {"what": name, "real tok/s": None, "note": "out of memory"}
        model.zero_grad(set_to_none=True)
    if note:
        row["note"] = note
    bench.rows.append(row)
    words = ", ".join(f"{key} {shown(value)}" for key, value in row.items() if value is not None)
    print(f"  {words}", flush=True)


def timed(bench: Bench, name: str, model: PeftModel, step: Step, batches: Sequence[Batch]) -> Row:
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=1e-5, fused=bench.on_card)
    fresh(bench)
    speeds = []
    for number in range(_WARM + bench.options.repeats):
        batch = batches[number % len(batches)]
        started = now(bench)
        step_of(bench, model, step, batch)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        speeds.append(batch.real / (now(bench) - started))
    speed = statistics.median(speeds[_WARM:])
    computed = [batch.about["input_ids"].numel() for batch in batches]
    share = sum(batch.real for batch in batches) / sum(computed)
    goal = next((g for key, g in GOALS.items() if name.startswith(f"ours, {key}")), None)
    return {
        "what": name,
        "tokens a batch": round(statistics.mean(computed)),
        "real": f"{share:.0%}",
        "real tok/s": speed,
        "of roof": speed / bench.roof_tokens(),
        "peak GB": torch.cuda.max_memory_allocated() / 1e9 if bench.on_card else None,
        "device GB": used() / 1e9 if bench.on_card else None,
        "goal": goal if bench.options.size == "7b" else None,
    }


def now(bench: Bench) -> float:
    if bench.on_card:
        torch.cuda.synchronize()
    return time.perf_counter()


def used() -> float:
    """Bytes of the card that are taken, by whatever it is."""
    free, total = torch.cuda.mem_get_info()
    return float(total - free)


def fresh(bench: Bench) -> None:
    gc.collect()
    if bench.on_card:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


@contextmanager
def limited(bench: Bench, most: float) -> Iterator[None]:
    """Let the process have no more of the card than `most` bytes, what it has besides included."""
    if not bench.on_card:
        yield
        return
    fresh(bench)
    total = torch.cuda.mem_get_info()[1]
    besides = used() - torch.cuda.memory_reserved()
    torch.cuda.set_per_process_memory_fraction((most - besides) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def keep_what_fits(bench: Bench, model: PeftModel, batch: Batch, most: float) -> int:
    """Let as many layers keep their activations as `most` bytes of the card allow."""
    inner: Any = model.get_base_model()
    keep_activations(inner, 0)
    if not bench.on_card:
        return 0
    fresh(bench)
    step_of(bench, model, ours, batch)
    step_of(bench, model, ours, batch)
    learnt = sum(p.numel() for p in model.parameters() if p.requires_grad)
    taken = used() + 8 * learnt + _MARGIN  # AdamW has two more numbers for each
    layers = layers_that_fit(inner, batch.real, most - taken)
    keep_activations(inner, layers)
    model.zero_grad(set_to_none=True)
    return layers


# -- the whole run ------------------------------------------------------------------------


def gradients(
    bench: Bench, model: PeftModel, batch: Batch, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Of every parameter that learns, and the loss, computed in `dtype`."""
    model.zero_grad(set_to_none=True)
    with torch.autocast(bench.device, dtype, enabled=dtype != torch.float32):
        loss = ours(model, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    found = {"loss": loss.detach()}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            found[name] = parameter.grad.float().clone()
    model.zero_grad(set_to_none=True)
    return found


def exact_gradients(bench: Bench, model: PeftModel, batch: Batch) -> dict[str, Tensor]:
    """In float32; the weights are as before afterwards."""
    model.float()
    found = gradients(bench, model, batch, torch.float32)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(bench.dtype)
    return found


def off(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """How far all gradients together are from the exact ones, relative."""
    names = [name for name in exact if name != "loss"]
    apart = torch.stack([(found[name] - exact[name]).norm() for name in names]).norm()
    return float(apart / torch.stack([exact[name].norm() for name in names]).norm())


def accelerate(bench: Bench, model: PeftModel) -> str:
    """The fast path; on a processor with its formulas in plain torch."""
    how = accelerate_model(model)
    if not how:
        inner: Any = model.get_base_model()
        layers = take_over(inner, best_rows(bench.dtype, torch.device(bench.device)))
        how = f"{len(layers)} layers in plain torch"
    return how


def checked(bench: Bench, model: PeftModel, batch: Batch) -> None:
    """Accelerate the model; hold both ways against float32, and the fast one against the other."""
    exact = exact_gradients(bench, model, batch)
    plain = gradients(bench, model, batch, bench.dtype)
    how = accelerate(bench, model)
    fast = gradients(bench, model, batch, bench.dtype)
    bench.check = {
        "loss": float(fast["loss"]),
        "plain": float(plain["loss"]),
        "exact": float(exact["loss"]),
        "gradients off": off(fast, exact),
        "plain gradients off": off(plain, exact),
    }
    words = ", ".join(f"{name} {value:.5g}" for name, value in bench.check.items())
    print(f"{how}; checked against float32: {words}", flush=True)


def dense(bench: Bench) -> None:
    vocabulary, device = bench.sizes["vocab_size"], bench.device
    lengths = drawn_lengths(2000 if bench.options.size != "tiny" else 60)
    capacity, length = bench.tokens(bench.options.tokens), bench.tokens(_FULL_LENGTH)
    packed = packs(lengths, capacity, vocabulary, device)
    model = make_model(bench.options.size, bench.dtype, device)
    model.train()
    if bench.wants("transformers"):
        # cuDNN's attention takes a second for each new length: with it, padded rows made 692 tok/s.
        torch.backends.cuda.enable_cudnn_sdp(False)
        name = f"transformers + PEFT, padded, {_PEER_ROWS} rows"
        measure(bench, name, model, theirs, padded(lengths, _PEER_ROWS, vocabulary, device))
        rows = padded([length] * 2, 2, vocabulary, device)
        measure(bench, f"transformers + PEFT, 2 rows of {length}", model, theirs, rows)
    inner: Any = model.get_base_model()
    inner.set_attn_implementation(NAME)
    checked(bench, model, packs(lengths, 1024, vocabulary, device)[0])
    if bench.wants("ours, packed"):
        measure(bench, "ours, packed", model, ours, packed)
        if bench.options.profile:
            profile(bench, model, packed[0])
    if bench.wants("ours, full rows"):
        rows = [full(length, max(1, capacity // length), vocabulary, device)]
        measure(bench, f"ours, full rows of {length}", model, ours, rows)
    if bench.wants("ours, 24 GB"):
        within(bench, model, packs(lengths, capacity // 2, vocabulary, device), 24)


def within(bench: Bench, model: PeftModel, batches: Sequence[Batch], gigabytes: int) -> None:
    """With checkpointing, and with what fits kept."""
    inner: Any = model.get_base_model()
    inner.gradient_checkpointing_enable()
    name = f"ours, {gigabytes} GB" + (" on 4 bits" if gigabytes == 10 else "")
    with limited(bench, gigabytes * 1e9):
        kept = keep_what_fits(bench, model, batches[0], gigabytes * 1e9)
        note = f"{kept} of {len(decoder_of(inner).layers)} layers keep their activations"
        measure(bench, name, model, ours, batches, note)


def four_bits(bench: Bench) -> None:
    vocabulary, device = bench.sizes["vocab_size"], bench.device
    lengths = drawn_lengths(2000 if bench.options.size != "tiny" else 60)
    model = make_model(bench.options.size, bench.dtype, device, packed=True)
    inner: Any = model.get_base_model()
    inner.set_attn_implementation(NAME)
    model.train()
    print(f"4 bits: {accelerate(bench, model)}", flush=True)
    within(bench, model, packs(lengths, bench.tokens(4096), vocabulary, device), 10)


def profile(bench: Bench, model: PeftModel, batch: Batch) -> None:
    """Where the time of one step on the card goes, by kernel."""
    if not bench.on_card:
        return
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as found:
        step_of(bench, model, ours, batch)
        torch.cuda.synchronize()
    model.zero_grad(set_to_none=True)
    events = sorted(found.key_averages(), key=lambda event: -event.self_device_time_total)
    whole = sum(event.self_device_time_total for event in events)
    rows = [
        {
            "kernel": event.key[:90],
            "count": event.count,
            "ms": event.self_device_time_total / 1e3,
            "share": f"{event.self_device_time_total / whole:.1%}",
        }
        for event in events[: bench.options.kernels]
    ]
    print(f"\none step of {batch.real} tokens: {whole / 1e3:.1f} ms of kernels\n\n{table(rows)}\n")


def run(options: argparse.Namespace) -> int:
    roof = measured_roof(options.device)
    print(roof.words(), flush=True)
    card = options.device == "auto" and torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if card else ("cpu", torch.float32)
    bench = Bench(options, roof, device, dtype)
    words = f"{bench.roof_tokens():,.0f} tokens a second would be products alone"
    print(f"{options.size}, {str(dtype).removeprefix('torch.')}, rank 16: {words}", flush=True)
    dense(bench)
    fresh(bench)
    if bench.wants("ours, 10 GB"):
        four_bits(bench)
    print(f"\ntraining: real tokens a second\n{roof.words()}\n\n{table(bench.rows)}")
    figures = figures_of("training", roof, bench.rows) | {"check": bench.check}
    print(json.dumps(figures | {"roof": asdict(roof)}), flush=True)
    near = bench.check["gradients off"] < _WORSE * bench.check["plain gradients off"] + _LEAST
    return int(not near or any(row["real tok/s"] is None for row in bench.rows))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--size", choices=tuple(SIZES), default="7b", help="shape of the model")
    add("--tokens", type=int, default=8192, help="of a batch")
    add("--repeats", type=int, default=6, help="steps that are timed, whose median counts")
    add("--only", nargs="+", default=[], help="measure what has one of these in its name")
    add("--device", choices=("auto", "cpu"), default="auto")
    add("--profile", action="store_true", help="tell where the time of a step goes, by kernel")
    add("--kernels", type=int, default=15, help="that the profile lists")
    sys.exit(run(parser.parse_args()))


if __name__ == "__main__":
    main()
