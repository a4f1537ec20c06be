"""`make_runner`: the fastest runner for a loaded model, made ready for its first request."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from modules.engine.worker.adapters import Adapters
from modules.engine.worker.flights import Flights
from modules.engine.worker.kernels.checked import product_kernels
from modules.engine.worker.kernels.rows import Rows, TorchRows
from modules.engine.worker.llama.blocks import BLOCK
from modules.engine.worker.llama.graphs import DecodeGraphs
from modules.engine.worker.llama.model import LlamaModel
from modules.engine.worker.llama.paged_cache import PagedCache
from modules.engine.worker.llama.processor import ProcessorRows
from modules.engine.worker.llama.runner import LlamaRunner
from modules.engine.worker.llama.shape import Shape, unfit
from modules.engine.worker.llama.step_kernels import StepKernels, step_kernels
from modules.engine.worker.llama.take_over import take_over
from modules.engine.worker.runner import Runner, TransformersRunner
from modules.engine.worker.sampling.batch.sampler import BatchSampler
from modules.engine.worker.warm_up import kept_tokens, warm_up
from modules.errors import LoadFailedError
from modules.loader.fast_runner import CHUNK, LADDER
from modules.loader.load_progress import Progress
from modules.loader.transformers_loader import LoadedModel

__all__ = ["ReadyRunner", "make_runner"]

log = logging.getLogger(__name__)

# A chunk is what a cancel or another reply's next token may have to wait for. A 135M model
# on two shared cores, median of six: 128 tokens in 0.38 s (337 tokens/s), 256 in 0.62 (412).
_CHUNK = 256
_CHUNK_PROCESSOR = 128
_CHUNK_FAST_SHARED = 512


@dataclass(frozen=True, slots=True)
class ReadyRunner:
    """A runner, with the tokens of a prompt that it computes at once: `chunk` where nobody else
    is served meanwhile, else `shared_chunk`. `most` replies are written at once, as far as the
    cache has room; who comes later waits. `flights` go with the fast one: on a card for their
    steps ahead, on the processor for the sampler (the starter with simple-1: 78 tokens a second in
    the place of 65)."""

    runner: Runner
    chunk: int
    shared_chunk: int
    flights: Flights | None = None
    most: int = 16


def make_runner(
    loaded: LoadedModel, context: int, cache_tokens: int, progress: Progress, *, int8: bool = False
) -> ReadyRunner:
    """The runner for contexts of up to `context` tokens.

    `cache_tokens` is how many tokens of all chats the fast runner has room for, and the context at
    least; 0 stands for one context, on the processor for three. With `int8` it is in 8 bits. Raises
    LoadFailedError where the memory is not there.
    """
    reason = unfit(loaded.model, context)
    if reason:
        log.info("%s is computed by transformers: %s.", loaded.inspection.name, reason)
        if int8:
            log.warning("The KV cache of %s is not in 8 bits then.", loaded.inspection.name)
        progress("Warming up", 1.0)
        warm_up(loaded.model)
        kept = kept_tokens(loaded.model, loaded.inspection, context)
        chunk = _CHUNK_PROCESSOR if loaded.model.device.type == "cpu" else _CHUNK
        return ReadyRunner(TransformersRunner(loaded.model, kept), chunk, chunk)
    kernels = step_kernels(loaded.model, Shape.of(loaded.model), LADDER[-1], int8=int8)
    if kernels is not None:
        runner = _with_kernels(loaded, context, cache_tokens, kernels, progress, int8=int8)
    else:
        runner = _composed(loaded, context, cache_tokens, int8=int8)
    flights = Flights(runner, BatchSampler(Shape.of(loaded.model).vocabulary, loaded.model.device))
    if loaded.model.device.type == "cpu":
        return ReadyRunner(runner, _CHUNK_PROCESSOR, _CHUNK_PROCESSOR, flights)
    return ReadyRunner(runner, CHUNK, _CHUNK_FAST_SHARED, flights, LADDER[-1])


def _composed(loaded: LoadedModel, context: int, cache_tokens: int, *, int8: bool) -> LlamaRunner:
    """For the processor, and for cards and dtypes that our kernels are not for."""
    model = loaded.model
    shape = Shape.of(model)
    if model.device.type == "cpu" and not cache_tokens:
        # Memory that is not written to is not taken there.
        cache_tokens = context + kept_tokens(model, loaded.inspection, context)
    weights = take_over(model, context, None)
    tokens = max(context, cache_tokens)
    blocks = math.ceil(tokens / BLOCK)
    with _setting_aside(tokens), model.device:
        cache = PagedCache.empty(shape, blocks, model.dtype, int8=int8, head_major=True)
    rows: Rows = TorchRows()
    if model.device.type == "cpu":
        rows = ProcessorRows(shape.hidden, shape.eps)
    return LlamaRunner(LlamaModel(shape, weights, rows, cache), Adapters(model))


def _with_kernels(
    loaded: LoadedModel,
    context: int,
    cache_tokens: int,
    kernels: StepKernels,
    progress: Progress,
    *,
    int8: bool = False,
) -> LlamaRunner:
    model, device = loaded.model, loaded.model.device
    torch.backends.cuda.enable_cudnn_sdp(False)  # see warm_up.py
    shape = Shape.of(model)
    progress("Putting the weights in order", 1.0)
    weights = take_over(model, context, product_kernels(model))
    tokens = max(context, cache_tokens)
    with _setting_aside(tokens), device:
        cache = PagedCache.empty(shape, math.ceil(tokens / BLOCK), model.dtype, int8=int8)
    graphs = DecodeGraphs(device, math.ceil(context / BLOCK))
    llama = LlamaModel(shape, weights, kernels.rows, cache)
    runner = LlamaRunner(llama, Adapters(model), kernels.attention, graphs)
    for done, rung in enumerate(sorted(LADDER, reverse=True)):
        progress(f"Preparing steps ({done} of {len(LADDER)})", 1.0)
        runner.capture([rung])
    torch.cuda.empty_cache()  # each was computed once outside its graph, on a stream of its own
    return runner


@contextmanager
def _setting_aside(tokens: int) -> Iterator[None]:
    """Give back what the weights have left over first, and say what the memory was wanted for."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        yield
    except RuntimeError as error:  # for a card torch.OutOfMemoryError, for the processor this
        if "memory" not in str(error):
            raise
        raise LoadFailedError(
            f"Memory ran out while the KV cache for {tokens:,} tokens was set aside.",
            "Choose a smaller context or 4-bit, or end what else uses the memory.",
        ) from error
