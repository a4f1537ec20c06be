"""A frozen base that is spread over the processes, for cards that do not hold it whole.

Each process keeps its part of every weight of a decoder layer, and of the embeddings and the
head; a layer is gathered just before it is computed, forward and backward, and let go of after
it. The LoRA, which is small, stays whole in every process, so that its gradients, its optimizer
and its checkpoints are what they are without this.

The gathering is torch's (`torch.distributed.fsdp.fully_shard`, the second FSDP: Zhao et al. 2023,
arxiv.org/abs/2304.11277). Since every forward gathers from all, all processes must take part in
each: see `World.in_step`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import PeftModel
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from transformers import PreTrainedModel

from modules.errors import TrainingError
from modules.loader.quantization.linear import QuantizedLinear
from modules.training.trainer.distributed import World

__all__ = ["is_sharded", "shard", "type_of", "whole"]


def shard(model: PeftModel, world: World) -> str:
    """Spread the frozen weights over the processes, and put the rest on this one's device.

    The base lies in the processor's memory until then. Returns what was done, in words. Raises
    TrainingError for a model that cannot be spread.
    """
    base = model.get_base_model()
    assert isinstance(base, PreTrainedModel)
    if any(isinstance(module, QuantizedLinear) for module in base.modules()):
        raise TrainingError(
            "A base that stays quantized cannot be sharded.",
            "Set sharding: off; a quantized base is small.",
        )
    decoder = base.get_decoder()  # type: ignore[no-untyped-call]
    units = [*_layers(decoder), *_ends(base)]
    # Scalars cannot be cut, and what learns is to stay whole.
    kept = {p for p in model.parameters() if p.requires_grad or not p.ndim}
    mesh = init_device_mesh(world.device.type, (world.size,))
    for unit in units:
        fully_shard(unit, mesh=mesh, reshard_after_forward=True, ignored_params=kept)
    _move_rest(model, world.device)
    # A unit without weights of its own: it tells the others apart from roots, so that the next
    # layer is gathered while one is computed.
    fully_shard(decoder, mesh=mesh, ignored_params=set(decoder.parameters()))
    return f"spread over {world.size} processes"


def is_sharded(model: nn.Module) -> bool:
    """Whether its weights are spread over processes."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def type_of(module: nn.Module) -> type[nn.Module]:
    """Its class, as it was before `fully_shard` put one of its own over it."""
    kinds = type(module).__mro__
    return kinds[kinds.index(FSDPModule) + 1] if isinstance(module, FSDPModule) else kinds[0]


@contextmanager
def whole(module: nn.Module) -> Iterator[None]:
    """Inside, the weights of a module are whole, although it is not called as a module."""
    if not isinstance(module, FSDPModule):
        yield
        return
    module.unshard()
    try:
        yield
    finally:
        module.reshard()


def _layers(decoder: nn.Module) -> list[nn.Module]:
    lists = [child for child in decoder.children() if isinstance(child, nn.ModuleList)]
    if not lists:
        raise TrainingError(
            f"Of a {type(decoder).__name__} the layers are not known: it cannot be sharded.",
            "Choose another base, or load this one in 4 bits (load_in: 4bit).",
        )
    largest = max(lists, key=_size)
    return list(largest)


def _ends(base: PreTrainedModel) -> list[nn.Module]:
    """The embeddings and the head, where they are frozen and have weights of their own.

    A weight that is both would have to be gathered under two names: it stays whole.
    """
    embeddings = base.get_input_embeddings()
    head = base.get_output_embeddings()  # type: ignore[no-untyped-call]
    found = [end for end in (embeddings, head) if isinstance(end, nn.Module)]
    weights = [{id(p) for p in end.parameters() if not p.requires_grad} for end in found]
    if len(found) == 2 and weights[0] & weights[1]:
        return []
    return [
        end
        for end, own in zip(found, weights, strict=True)
        if own and getattr(end, "modules_to_save", None) is None
    ]


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _move_rest(model: nn.Module, device: torch.device) -> None:
    """What no unit took along: the LoRA, the last norm, and tables."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device != device:
            tensor.data = tensor.to(device)
