"""`ModelInfo` of a loaded model, from the model itself rather than from its files."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from modules.engine.protocol import ModelInfo

__all__ = ["model_info"]

_CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")


def model_info(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> ModelInfo:
    """What the page, the API and the prompt builder need to know of a loaded model."""
    # parameters() and buffers() name a tied weight once.
    tensors = chain(model.parameters(), model.buffers())
    special = {k: v for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)}
    return ModelInfo(
        name=folder.name,
        path=str(folder),
        architecture=type(model).__name__,
        parameters=sum(p.numel() for p in model.parameters()),
        dtype=str(model.dtype).removeprefix("torch."),
        quantization=_quantization(model.config),
        device=str(model.device),
        context_length=_context_length(model.config, tokenizer),
        memory=sum(tensor.nbytes for tensor in tensors),
        chat_template=_chat_template(tokenizer),
        special_tokens=special,
    )


def _quantization(config: PreTrainedConfig) -> str:
    about = getattr(config, "quantization_config", None)
    if about is None:
        return "none"
    method = about.get("quant_method") if isinstance(about, dict) else about.quant_method
    return str(getattr(method, "value", method))


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
