"""`ModelInfo` of a loaded model, from the model itself rather than from its files."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from modules.engine.protocol import ModelInfo
from modules.engine.worker.kv_cache import can_rewind
from modules.loader.options import LoadOptions
from modules.loader.quantization.linear import QuantizedLinear
from modules.loader.transformers_loader import LoadedModel

__all__ = ["model_info"]

_WITH_REWIND = ("penalty_alpha", "prompt_lookup_num_tokens")
"""What decodes by computing tokens and taking them back."""

_CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")


def model_info(folder: Path, loaded: LoadedModel, options: LoadOptions) -> ModelInfo:
    """What the page, the API and the prompt builder need to know of a loaded model."""
    model, tokenizer = loaded.model, loaded.tokenizer
    own = _context_length(model.config, tokenizer)
    context = min(own, options.context_length or own)
    # parameters() and buffers() name a tied weight once.
    tensors = chain(model.parameters(), model.buffers())
    special = {k: v for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)}
    return ModelInfo(
        name=folder.name,
        path=str(folder),
        architecture=type(model).__name__,
        parameters=loaded.inspection.parameters,
        dtype=str(model.dtype).removeprefix("torch."),
        quantization=_quantization(loaded, options),
        device=str(model.device),
        context_length=context,
        memory=sum(tensor.nbytes for tensor in tensors),
        chat_template=_chat_template(tokenizer),
        special_tokens=special,
        unsupported=() if can_rewind(model.config, context) else _WITH_REWIND,
    )


def _quantization(loaded: LoadedModel, options: LoadOptions) -> str:
    stored = loaded.inspection.quantization
    if stored is not None:
        return stored.words
    if options.quantize != "none":
        return f"{options.quantize[0]}-bit"
    found = any(isinstance(module, QuantizedLinear) for module in loaded.model.modules())
    return "4-bit, found in its weights" if found else "none"


def _context_length(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    text_config = config.get_text_config(decoder=True)
    for name in _CONTEXT_FIELDS:
        value = getattr(text_config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    # A tokenizer that knows no limit says 10^30; without any word, 2048 is a safe guess.
    limit = tokenizer.model_max_length
    return int(limit) if limit < 10**7 else 2048


def _chat_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    template: Any = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    return template if isinstance(template, str) else None
