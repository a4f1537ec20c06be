"""What a card does only once, done before the first reply waits for it."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from modules.engine.worker.kernels.checked import product_kernels
from modules.engine.worker.kernels.tiled_linear import use_tiles
from modules.loader.inspect import Inspection

__all__ = ["kept_tokens", "warm_up"]


@torch.inference_mode()
def warm_up(model: PreTrainedModel) -> None:
    """Compile our kernels, and have CUDA load its own, for a prompt and for a single token.

    Nothing for the processor. Without it the first reply of a 7B model on an H200 began some
    two seconds late.
    """
    if not any(parameter.is_cuda for parameter in model.parameters()):
        return
    # On Hopper and later torch prefers cuDNN's attention, which is planned anew for each length
    # that it has not met (github.com/pytorch/pytorch/pull/155958): with a 7B model on an H200 a
    # token took 65 ms, and 32 ms where the lengths came a second time.
    torch.backends.cuda.enable_cudnn_sdp(False)
    kernels = product_kernels(model)
    if kernels is not None:
        use_tiles(list(model.modules()), kernels)
    for length in (64, 1):
        model(input_ids=torch.zeros(1, length, dtype=torch.long, device=model.device))
    torch.cuda.synchronize()


def kept_tokens(model: PreTrainedModel, about: Inspection, context_length: int) -> int:
    """How many tokens of finished requests may stay in memory, for the next ones.

    Twice the context; on cards no more than is left beside one request that fills it.
    """
    cards = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    token = 2 * about.layers * about.kv_heads * about.head_dim * model.dtype.itemsize
    if not cards or not token:
        return 2 * context_length
    torch.cuda.empty_cache()
    free = sum(torch.cuda.mem_get_info(card)[0] for card in cards)
    return max(0, min(2 * context_length, free // token - context_length))
