"""`ModelConfig`: the numbers of a model, from its config.json or its GGUF header."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modules.loader.gguf_header import GgufHeader

__all__ = ["ModelConfig", "config_from_gguf", "config_from_json"]

# What the families call the same number; those of Llama come first.
_KEYS = {
    "context_length": (
        "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length",
    ),
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv"),
    "head_dim": ("head_dim", "kv_channels"),
    "vocabulary": ("vocab_size", "padded_vocab_size"),
}  # fmt: skip
_GGUF_KEYS = {
    "context_length": "context_length",
    "layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "heads": "attention.head_count",
    "kv_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "vocabulary": "vocab_size",
}
_MOST = 2**40
_MISTRALS_WINDOW = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """What is not told is 0 or empty; `tied_head` is None where only the weights can tell.

    `dtype` is what the weights are said to be stored in ("float16"). `window` are the tokens
    that attention looks back on, 0 where that is the whole text.
    """

    architecture: str = ""
    model_type: str = ""
    dtype: str = ""
    tied_head: bool | None = None
    context_length: int = 0
    layers: int = 0
    hidden_size: int = 0
    intermediate_size: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    vocabulary: int = 0
    window: int = 0


def config_from_json(config: Mapping[str, Any]) -> ModelConfig:
    """From config.json; a vision model keeps most of it in `text_config`."""
    nested = config.get("text_config")
    sources = (config, nested if isinstance(nested, dict) else {})
    numbers = {name: _number(sources, keys) for name, keys in _KEYS.items()}
    if config.get("multi_query") is True and not config.get("new_decoder_architecture"):
        numbers["kv_heads"] = 1  # Falcon 7B and StarCoder say it thus
    model_type = config.get("model_type")
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else model_type
    dtype = config.get("dtype", config.get("torch_dtype"))
    tied = config.get("tie_word_embeddings")
    return ModelConfig(
        architecture=name if isinstance(name, str) else "",
        model_type=model_type if isinstance(model_type, str) else "",
        dtype=dtype if isinstance(dtype, str) else "",
        tied_head=tied if isinstance(tied, bool) else None,
        window=_window(config),
        **_completed(numbers),
    )


def _window(config: Mapping[str, Any]) -> int:
    """Qwen's has to be switched on, and Mistral's is on where nothing is said."""
    family = config.get("model_type")
    if not config.get("use_sliding_window", family not in ("qwen2", "qwen3")):
        return 0
    if family == "mistral" and "sliding_window" not in config:
        return _MISTRALS_WINDOW
    return _number((config,), ("sliding_window",))


def config_from_gguf(header: GgufHeader) -> ModelConfig:
    """From the metadata, whose keys begin with the name of the architecture."""
    family = str(header.values.get("general.architecture", ""))
    numbers = {
        name: _number((header.values,), (f"{family}.{key}",)) for name, key in _GGUF_KEYS.items()
    }
    numbers["vocabulary"] = numbers["vocabulary"] or header.lengths.get("tokenizer.ggml.tokens", 0)
    return ModelConfig(
        architecture=family,
        model_type=family,
        tied_head="output.weight" not in header.tensors,
        **_completed(numbers),
    )


def _number(sources: tuple[Mapping[str, Any], ...], keys: tuple[str, ...]) -> int:
    """The first of `keys` that is told, where it is a positive number of sensible size."""
    for source in sources:
        for key in keys:
            if type(source.get(key)) is int and 0 < source[key] < _MOST:
                return int(source[key])
    return 0


def _completed(numbers: dict[str, int]) -> dict[str, Any]:
    heads = numbers["heads"]
    return numbers | {
        "kv_heads": numbers["kv_heads"] or heads,
        "head_dim": numbers["head_dim"] or (numbers["hidden_size"] // heads if heads else 0),
    }
