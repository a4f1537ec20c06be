"""Model and LoRA folders for the Model tab: real headers, with holes where the tensors would be."""

from __future__ import annotations

import json
from pathlib import Path

from modules.loader.quantization.format import QuantizationFormat
from tests.loader.folders import make_model, write_tensors
from tests.loader.shapes import Shape, inspection

__all__ = ["TINY", "put_llama", "put_lora"]

TINY = Shape("Tiny", 30, 576, 1536, 9, 3, 64, vocabulary=49_152, context=2048, tied=True)


def put_llama(
    models: Path, name: str, shape: Shape, quantization: QuantizationFormat | None = None
) -> Path:
    """A checkpoint of Llama's kind; a quantized one says how in quantize_config.json."""
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.context,
        "tie_word_embeddings": shape.tied,
    }
    folder = make_model(models, name, config__json=config, chat_template__jinja="{{ messages }}")
    tensors = inspection(shape, quantization).tensors
    write_tensors(
        folder / "model.safetensors", {key: (t.dtype, t.shape) for key, t in tensors.items()}
    )
    if quantization is not None:
        about = {
            "bits": quantization.bits,
            "group_size": quantization.group_size,
            "sym": quantization.symmetric,
            "desc_act": quantization.act_order,
            "quant_method": quantization.method,
        }
        (folder / "quantize_config.json").write_text(json.dumps(about))
    return folder


def put_lora(loras: Path, name: str, rank: int = 8) -> Path:
    """A LoRA over the q and v projections of the first layer of `TINY`."""
    folder = loras / name
    folder.mkdir(parents=True)
    about = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 16,
        "target_modules": ["q_proj", "v_proj"],
        "base_model_name_or_path": "someone/Tiny",
    }
    (folder / "adapter_config.json").write_text(json.dumps(about))
    base = "base_model.model.model.layers.0.self_attn"
    shapes = {
        f"{base}.q_proj.lora_A.weight": ("F32", (rank, TINY.hidden)),
        f"{base}.q_proj.lora_B.weight": ("F32", (TINY.hidden, rank)),
        f"{base}.v_proj.lora_A.weight": ("F32", (rank, TINY.hidden)),
        f"{base}.v_proj.lora_B.weight": ("F32", (192, rank)),
    }
    write_tensors(folder / "adapter_model.safetensors", shapes)
    return folder
