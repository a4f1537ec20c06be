"""Both runners over a tiny model, for what has to be the same with either."""

from __future__ import annotations

import math

import torch
from transformers import PreTrainedModel

from modules.engine.worker.adapters import Adapters
from modules.engine.worker.kernels.product import ProductKernels
from modules.engine.worker.llama.blocks import BLOCK
from modules.engine.worker.llama.model import LlamaModel
from modules.engine.worker.llama.paged_cache import PagedCache
from modules.engine.worker.llama.processor import ProcessorRows
from modules.engine.worker.llama.runner import LlamaRunner
from modules.engine.worker.llama.shape import Shape
from modules.engine.worker.llama.take_over import take_over
from modules.engine.worker.runner import TransformersRunner

__all__ = ["RUNNERS", "llama_runner", "make_runner"]

RUNNERS = ("transformers", "llama")


def make_runner(
    kind: str, model: PreTrainedModel, context: int
) -> TransformersRunner | LlamaRunner:
    """One of `RUNNERS`. What is kept for later prompts is as much as the context, or more."""
    if kind == "transformers":
        return TransformersRunner(model, context)
    return llama_runner(model, context, 4 * context)


def llama_runner(
    model: PreTrainedModel,
    context: int,
    tokens: int,
    kernels: ProductKernels | None = None,
    *,
    int8: bool = False,
) -> LlamaRunner:
    """With so many tokens in the cache, which holds no numbers until they are computed."""
    shape = Shape.of(model)
    weights = take_over(model, context, kernels)
    blocks = math.ceil(tokens / BLOCK)
    cache = PagedCache.empty(shape, blocks, model.dtype, int8=int8, head_major=True)
    (cache.numbers if cache.scales is None else cache.scales).fill_(torch.nan)
    return LlamaRunner(
        LlamaModel(shape, weights, ProcessorRows(shape.hidden, shape.eps), cache), Adapters(model)
    )
