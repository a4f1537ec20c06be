"""Write a Llama checkpoint of random weights, for measurements that do not depend on them.

    python benchmarks/random_checkpoint.py OUT [--kind gptq|float16] [--size 7b|small|tiny]

GPTQ is 4-bit, group 128, symmetric, format v1. `small` has two layers whose heads are as wide as
those of `7b`, and takes a second on a processor.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

SIZES = {
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
           "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000},
    "small": {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 2,
              "num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 2048},
    "tiny": {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 512},
}  # fmt: skip
GROUP = 128


def config_of(size: str, kind: str) -> dict[str, object]:
    config: dict[str, object] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "float16",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **SIZES[size],
    }
    if kind == "gptq":
        config["quantization_config"] = {
            "quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": True,
            "desc_act": False, "checkpoint_format": "gptq",
        }  # fmt: skip
    return config


def linear(name: str, inputs: int, outputs: int, kind: str, device: str) -> dict[str, Tensor]:
    if kind == "float16":
        weight = torch.randn(outputs, inputs, dtype=torch.float16, device=device) * 0.02
        return {f"{name}.weight": weight.cpu()}
    low, high, groups = -(2**31), 2**31 - 1, inputs // GROUP
    packed = torch.randint(low, high, (inputs // 8, outputs), dtype=torch.int64, device=device)
    return {
        f"{name}.qweight": packed.int().cpu(),
        f"{name}.qzeros": torch.full((groups, outputs // 8), 0x77777777, dtype=torch.int32),
        f"{name}.scales": torch.full((groups, outputs), 0.004, dtype=torch.float16),
        f"{name}.g_idx": (torch.arange(inputs) // GROUP).int(),
    }


def blocks(config: dict[str, object], kind: str, device: str) -> Iterator[dict[str, Tensor]]:
    """The tensors of each layer, and last those around the layers."""
    hidden, middle = int(config["hidden_size"]), int(config["intermediate_size"])  # type: ignore
    for index in range(int(config["num_hidden_layers"])):  # type: ignore[call-overload]
        prefix = f"model.layers.{index}"
        tensors = {
            f"{prefix}.input_layernorm.weight": torch.ones(hidden, dtype=torch.float16),
            f"{prefix}.post_attention_layernorm.weight": torch.ones(hidden, dtype=torch.float16),
        }
        for part in ("q", "k", "v", "o"):
            tensors |= linear(f"{prefix}.self_attn.{part}_proj", hidden, hidden, kind, device)
        for part, sizes in (("gate", (hidden, middle)), ("up", (hidden, middle)),
                            ("down", (middle, hidden))):  # fmt: skip
            tensors |= linear(f"{prefix}.mlp.{part}_proj", *sizes, kind, device)
        yield tensors
    vocabulary = int(config["vocab_size"])  # type: ignore[call-overload]
    yield {
        **linear("model.embed_tokens", hidden, vocabulary, "float16", device),
        **linear("lm_head", hidden, vocabulary, "float16", device),
        "model.norm.weight": torch.ones(hidden, dtype=torch.float16),
    }


def write_tokenizer(folder: Path, vocabulary: int) -> None:
    """A tokenizer of single bytes, filled up with names that no text has."""
    pieces = ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    pieces += [f"<{n}>" for n in range(len(pieces), vocabulary)]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>",
                "eos_token": "</s>", "unk_token": "<unk>"}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write(folder: Path, kind: str, size: str, layers_a_file: int = 8) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    config = config_of(size, kind)
    files: list[dict[str, Tensor]] = []
    for index, tensors in enumerate(blocks(config, kind, device)):
        if index % layers_a_file == 0:
            files.append({})
        files[-1] |= tensors
    weight_map = {}
    for index, tensors in enumerate(files):
        name = f"model-{index + 1:05d}-of-{len(files):05d}.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder, int(config["vocab_size"]))  # type: ignore[call-overload]


def write_adapter(folder: Path, checkpoint: Path, rank: int, seed: int) -> None:
    """A LoRA of random weights over all projections of a checkpoint of this script."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((checkpoint / "config.json").read_text())
    hidden, middle = config["hidden_size"], config["intermediate_size"]
    sizes = {f"self_attn.{part}_proj": (hidden, hidden) for part in "qkvo"}
    sizes |= {"mlp.gate_proj": (hidden, middle), "mlp.up_proj": (hidden, middle)}
    sizes["mlp.down_proj"] = (middle, hidden)
    made = torch.Generator().manual_seed(seed)
    tensors = {}
    for index in range(config["num_hidden_layers"]):
        for part, (inputs, outputs) in sizes.items():
            name = f"base_model.model.model.layers.{index}.{part}"
            for half, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
                weight = torch.randn(shape, generator=made) * 0.01
                tensors[f"{name}.lora_{half}.weight"] = weight.half()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    about = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "task_type": "CAUSAL_LM",
             "target_modules": [part.rpartition(".")[2] for part in sizes]}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(about))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kind", choices=("gptq", "float16"), default="gptq")
    parser.add_argument("--size", choices=tuple(SIZES), default="7b")
    options = parser.parse_args()
    write(options.out, options.kind, options.size)
    print(f"{options.out} is written.")


if __name__ == "__main__":
    main()
