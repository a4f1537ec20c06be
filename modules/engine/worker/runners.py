"""`make_runner`: the fastest runner for a loaded model, made ready for its first request."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from modules.engine.worker.adapters import Adapters
from modules.engine.worker.flights import Flights
from modules.engine.worker.kernels.attention import DecodeAttention
from modules.engine.worker.kernels.checked import product_kernels
from modules.engine.worker.kernels.rows import RowKernels, Rows, TorchRows
from modules.engine.worker.llama.blocks import BLOCK
from modules.engine.worker.llama.graphs import LADDER, DecodeGraphs
from modules.engine.worker.llama.model import LlamaModel
from modules.engine.worker.llama.processor import ProcessorRows
from modules.engine.worker.llama.processor_attention import head_major_cache
from modules.engine.worker.llama.runner import LlamaRunner
from modules.engine.worker.llama.shape import Shape, unfit
from modules.engine.worker.llama.take_over import take_over
from modules.engine.worker.runner import Runner, TransformersRunner
from modules.engine.worker.sampling.batch.sampler import BatchSampler
from modules.engine.worker.warm_up import kept_tokens, warm_up
from modules.loader.load_progress import Progress
from modules.loader.transformers_loader import LoadedModel

__all__ = ["ReadyRunner", "make_runner"]

log = logging.getLogger(__name__)

# A chunk is what a cancel or another reply's next token may have to wait for. A 135M model
# on two shared cores, median of six: 128 tokens in 0.38 s (337 tokens/s), 256 in 0.62 (412).
_CHUNK = 256
_CHUNK_PROCESSOR = 128
_CHUNK_FAST, _CHUNK_FAST_SHARED = 2048, 512
_CONTEXTS = 8
"""How often the whole context is in the cache of a card at most, for many chats at once."""


@dataclass(frozen=True, slots=True)
class ReadyRunner:
    """A runner, with the tokens of a prompt that it computes at once: `chunk` where nobody else
    is served meanwhile, else `shared_chunk`. `flights` are for one on a card."""

    runner: Runner
    chunk: int
    shared_chunk: int
    flights: Flights | None = None


def make_runner(loaded: LoadedModel, context: int, progress: Progress) -> ReadyRunner:
    """The runner for contexts of up to `context` tokens."""
    reason = unfit(loaded.model, context)
    if reason:
        log.info("%s is computed by transformers: %s.", loaded.inspection.name, reason)
        progress("Warming up", 1.0)
        warm_up(loaded.model)
        kept = kept_tokens(loaded.model, loaded.inspection, context)
        chunk = _CHUNK_PROCESSOR if loaded.model.device.type == "cpu" else _CHUNK
        return ReadyRunner(TransformersRunner(loaded.model, kept), chunk, chunk)
    if loaded.model.device.type == "cpu":
        return ReadyRunner(_composed(loaded, context), _CHUNK_PROCESSOR, _CHUNK_PROCESSOR)
    fits = _kernels_fit(loaded.model)
    runner = _with_kernels(loaded, context, progress) if fits else _composed(loaded, context)
    sampler = BatchSampler(Shape.of(loaded.model).vocabulary, loaded.model.device)
    flights = Flights(runner, sampler)
    return ReadyRunner(runner, _CHUNK_FAST, _CHUNK_FAST_SHARED, flights)


def _composed(loaded: LoadedModel, context: int) -> LlamaRunner:
    """For the processor, and for cards and dtypes that our kernels are not for."""
    model = loaded.model
    shape = Shape.of(model)
    weights = take_over(model, context, None)
    # The processor's memory is not taken before it is written.
    tokens = context + kept_tokens(model, loaded.inspection, context)
    blocks = math.ceil(tokens / BLOCK)
    with model.device:
        cache = head_major_cache(shape.layers, blocks, shape.kv_heads, shape.head_dim, model.dtype)
    rows: Rows = TorchRows()
    if model.device.type == "cpu":
        rows = ProcessorRows(shape.hidden, shape.eps)
    return LlamaRunner(LlamaModel(shape, weights, rows, cache), Adapters(model))


def _with_kernels(loaded: LoadedModel, context: int, progress: Progress) -> LlamaRunner:
    model, device, dtype = loaded.model, loaded.model.device, loaded.model.dtype
    torch.backends.cuda.enable_cudnn_sdp(False)  # see warm_up.py
    shape = Shape.of(model)
    progress("Putting the weights in order", 1.0)
    weights = take_over(model, context, product_kernels(model))
    heads = (shape.heads, shape.kv_heads, shape.head_dim)
    attention = DecodeAttention(*heads, dtype, device, LADDER[-1])
    cache = _cache(shape, _card_tokens(loaded, shape, context), dtype, device)
    graphs = DecodeGraphs(device, math.ceil(context / BLOCK))
    llama = LlamaModel(shape, weights, RowKernels(dtype, device), cache)
    runner = LlamaRunner(llama, Adapters(model), attention, graphs)
    for done, rung in enumerate(sorted(LADDER, reverse=True)):
        progress(f"Preparing steps ({done} of {len(LADDER)})", 1.0)
        runner.capture([rung])
    return runner


def _kernels_fit(model: PreTrainedModel) -> bool:
    shape = Shape.of(model)
    middle = int(model.config.intermediate_size)
    return DecodeAttention.fits(
        shape.heads, shape.kv_heads, shape.head_dim, model.dtype, model.device
    ) and RowKernels.fits(shape.hidden, middle, shape.head_dim, model.dtype, model.device)


def _cache(shape: Shape, tokens: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    blocks = math.ceil(tokens / BLOCK)
    sizes = (shape.layers, 2, blocks, shape.kv_heads, BLOCK, shape.head_dim)
    return torch.empty(sizes, dtype=dtype, device=device)


def _card_tokens(loaded: LoadedModel, shape: Shape, context: int) -> int:
    """Tokens in the cache: the context, and more while half of what is left stays free."""
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(loaded.model.device)
    spare = free // shape.kv_bytes(loaded.model.dtype) - context
    return context + max(0, min((_CONTEXTS - 1) * context, spare // 2))
