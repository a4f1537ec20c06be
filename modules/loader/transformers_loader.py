"""A checkpoint on disk becomes a model and its tokenizer, through transformers.

For the engine worker alone: importing this module imports torch and transformers.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Read by huggingface_hub while it is imported: nothing is fetched while a model loads.
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from packaging.version import Version
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from modules.errors import LoadFailedError
from modules.loader.inspect import Inspection, inspect_checkpoint
from modules.loader.load_progress import LoadStages, Progress
from modules.loader.options import LoadOptions
from modules.loader.quantization.aten import AtenInt4Linear
from modules.loader.quantization.format import LOAD_4BIT, LOAD_8BIT
from modules.loader.quantization.grid import on_grid
from modules.loader.quantization.quantizer import ConversionAborted, LanternConfig
from modules.paths import write_atomically

__all__ = ["LoadedModel", "Progress", "load"]

_LEAST_TRANSFORMERS = "5.23"  # as requirements.txt has it
_TOKENIZER_AT = 0.10
_AGAIN = "Download the model again."
_INDEX = ".safetensors.index.json"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in eval mode on its devices, with the tokenizer that belongs to it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    inspection: Inspection


def load(
    folder: Path,
    progress: Progress,
    options: LoadOptions,
    placement: Mapping[str, str] | None = None,
    offload_dir: str = "",
) -> LoadedModel:
    """Load a checkpoint without the network and without code of its own.

    `placement` maps modules to devices, as the plan does; without one, everything goes to
    the first card, or to the processor. `offload_dir` is for what goes to the disk. Raises
    LoadFailedError for whatever goes wrong, saying what it was and what would help.
    """
    _require_version()
    transformers_logging.set_verbosity(logging.ERROR)
    stages = LoadStages(progress)
    inspection = inspect_checkpoint(folder, options)
    if inspection.problem:
        raise LoadFailedError(inspection.problem, inspection.remedy)
    stages.enter("Reading the tokenizer", _TOKENIZER_AT)
    with _reported(f"The tokenizer of {folder.name} cannot be read", stages):
        tokenizer = _tokenizer(inspection)
    with _reported(f"{folder.name} cannot be loaded", stages):
        arguments = _arguments(inspection, options)
        arguments["device_map"] = _device_map(placement or {"": _device(options)})
        if offload_dir:
            arguments["offload_folder"] = offload_dir
        with stages.reading(inspection.tensors):
            model = _model(folder, arguments)
        if model.device.type == "cpu" and options.dtype == "auto":
            _find_codes(model)
    stages.enter("Ready", 1.0)
    return LoadedModel(model, tokenizer, inspection)


def _require_version() -> None:
    """Older ones fill quantized layers in another way, and what comes out is wrong silently."""
    if Version(transformers.__version__) < Version(_LEAST_TRANSFORMERS):
        raise LoadFailedError(
            f"transformers {transformers.__version__} is installed, and Lantern needs "
            f"{_LEAST_TRANSFORMERS} or later.",
            "Run pip install -r requirements.txt in Lantern's folder.",
        )


def _find_codes(model: PreTrainedModel) -> None:
    """Layers whose weights came out of a 4-bit file are computed in 4 bits on the processor.

    The starter's did, and 16-bit checkpoints that were made of GGUF files: reading a quarter of
    the bytes is four times as fast, and changes its perplexity by 0.03 %.
    """
    layers = getattr(model.get_decoder(), "layers", None)  # type: ignore[no-untyped-call]
    if not isinstance(layers, nn.ModuleList):
        return
    found = [(n, m) for n, m in layers.named_modules() if type(m) is nn.Linear]
    for name, layer in found:
        packed = on_grid(layer)
        if packed is None or not AtenInt4Linear.fits(packed):
            return
        layers.set_submodule(name, AtenInt4Linear.take(packed))


def _device_map(placement: Mapping[str, str]) -> dict[str, int | str]:
    """With numbers for cards: of names, accelerate takes any for the first card.

    That one computes what lies on the processor, and the plan has counted on it.
    """
    return {
        module: int(device.removeprefix("cuda:")) if device.startswith("cuda:") else device
        for module, device in placement.items()
    }


def _device(options: LoadOptions) -> str:
    return "cuda:0" if options.device == "auto" and torch.cuda.is_available() else "cpu"


def _tokenizer(inspection: Inspection) -> PreTrainedTokenizerBase:
    # A tokenizer.json beside a GGUF file is better: the file has lost how it splits text.
    beside = "tokenizer.json" in inspection.files
    gguf = {"gguf_file": _gguf(inspection)} if _gguf(inspection) and not beside else {}
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        inspection.path, local_files_only=True, trust_remote_code=False, **gguf
    )
    return tokenizer


def _arguments(inspection: Inspection, options: LoadOptions) -> dict[str, Any]:
    """What `from_pretrained` is to be told, but for the devices."""
    dtype = _dtype(inspection, options)
    if gguf := _gguf(inspection):
        return {
            "gguf_file": gguf,
            "quantization_config": GgufConfig(dequantize=True),
            "dtype": dtype,
        }
    config = AutoConfig.from_pretrained(
        inspection.path, local_files_only=True, trust_remote_code=False
    )
    config.transformers_weights = _weights_name(inspection)
    arguments = {"config": config, "dtype": dtype, "use_safetensors": True}
    if options.loader == "gptqmodel" and inspection.quantization is not None:
        _leave_to_gptqmodel(inspection, config)
        return arguments
    # What the checkpoint says of its quantization is for us; transformers would look for the
    # packages that made it.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    if (quantization := _quantization(inspection, options)) is not None:
        arguments["quantization_config"] = quantization
    return arguments


def _leave_to_gptqmodel(inspection: Inspection, config: PreTrainedConfig) -> None:
    """Let transformers ask GPTQModel, which must find the settings in the configuration."""
    if find_spec("gptqmodel") is None:
        raise LoadFailedError(
            "GPTQModel is not installed.",
            "Install it (pip install -r requirements-gptqmodel.txt), or leave out "
            "--loader gptqmodel.",
        )
    form = inspection.quantization
    if form is not None and not hasattr(config, "quantization_config"):
        config.quantization_config = {
            "quant_method": form.method,
            "bits": form.bits,
            "group_size": form.group_size,
            "sym": form.symmetric,
            "desc_act": form.act_order,
            "checkpoint_format": "gptq_v2" if form.version == "v2" else "gptq",
        }


def _quantization(inspection: Inspection, options: LoadOptions) -> LanternConfig | None:
    exact = options.dtype == "float32"
    if inspection.quantization is not None:
        names = inspection.tensors
        layers = frozenset(n.removesuffix(".qweight") for n in names if n.endswith(".qweight"))
        biases = frozenset(layer for layer in layers if f"{layer}.bias" in names)
        return LanternConfig(inspection.quantization, layers, biases, exact=exact)
    wanted = {"8bit": LOAD_8BIT, "4bit": LOAD_4BIT}.get(options.quantize)
    return None if wanted is None else LanternConfig(wanted, exact=exact)


def _dtype(inspection: Inspection, options: LoadOptions) -> torch.dtype:
    name: str = options.dtype
    if name == "auto" and _device(options) == "cpu":
        # The processor has no fast float16; float32 is what it computes best and most exactly.
        name = "float32"
    elif name == "auto":
        half = inspection.dtype in ("float16", "bfloat16")
        name = inspection.dtype if half else "float16"
        if name == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            name = "float16"
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _weights_name(inspection: Inspection) -> str:
    """The weight file, or the index of several, whatever it is called."""
    if len(inspection.weights) == 1:
        return inspection.weights[0].name
    indexes = sorted(name for name in inspection.files if name.endswith(_INDEX))
    first = inspection.weights[0].name
    own = (name for name in indexes if first.startswith(name.removesuffix(_INDEX)))
    return next(own, None) or next(iter(indexes), None) or _written_index(inspection)


def _written_index(inspection: Inspection) -> str:
    """Shards whose index was left behind get one, for transformers wants it."""
    name = f"model{_INDEX}"
    index = {
        "metadata": {"total_size": inspection.size_bytes},
        "weight_map": {tensor: info.file for tensor, info in inspection.tensors.items()},
    }
    try:
        write_atomically(inspection.path / name, json.dumps(index))
    except OSError as error:
        raise LoadFailedError(
            f"{inspection.name} lacks {name}, and it cannot be written: {error.strerror}.",
            "Download it into the folder, or make the folder writable.",
        ) from error
    return name


def _gguf(inspection: Inspection) -> str:
    first = inspection.weights[0].name
    return first if first.endswith(".gguf") else ""


def _model(folder: Path, arguments: dict[str, Any]) -> PreTrainedModel:
    from_pretrained: Any = AutoModelForCausalLM.from_pretrained
    try:
        model, report = from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **arguments,
        )
    except ConversionAborted as aborted:
        raise aborted.reason from aborted
    missing = sorted(report["missing_keys"])
    if missing:
        # Left alone, transformers fills them with random numbers.
        raise LoadFailedError(
            f"The weights of {folder.name} lack {len(missing)} tensors, {missing[0]} among them.",
            "Download the model again, or check that config.json belongs to it.",
        )
    homeless = sorted(key for key in report["unexpected_keys"] if key.endswith(".qweight"))
    if homeless:
        raise LoadFailedError(
            f"{folder.name} has no layer for {homeless[0]} and {len(homeless) - 1} more.",
            "Check that config.json belongs to the weights.",
        )
    model.requires_grad_(False)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # what the conversion of the last layers left over
    loaded: PreTrainedModel = model.eval()
    return loaded


@contextmanager
def _reported(what: str, stages: LoadStages) -> Iterator[None]:
    """Turn what the libraries raise into a LoadFailedError with one sentence."""
    try:
        yield
    except LoadFailedError:
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(what, stages) from error
    except Exception as error:
        # Not narrower: tokenizers raises bare Exception.
        text = str(error)
        if "memory" in text and "allocate" in text:
            raise _out_of_memory(what, stages) from error
        if "ignore_mismatched_sizes" in text:
            raise LoadFailedError(
                f"{what}: config.json does not fit the weights.", _AGAIN
            ) from error
        remedy = _AGAIN
        if "does not recognize this architecture" in text:
            remedy = "Update transformers, or choose a model of another architecture."
        raise LoadFailedError(f"{what}: {_sentence(error)}.", remedy) from error


def _out_of_memory(what: str, stages: LoadStages) -> LoadFailedError:
    stage = stages.stage[:1].lower() + stages.stage[1:]
    return LoadFailedError(
        f"{what}: memory ran out while {stage}.",
        "Choose a smaller model, 4-bit, or a smaller context; or end what else uses the memory.",
    )


def _sentence(error: Exception) -> str:
    """The first line of an error with something in it, short enough for the page."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = next((line for line in lines if not line.endswith(":")), type(error).__name__)
    return text[:200].rstrip(". ")
