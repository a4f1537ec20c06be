"""A checkpoint on disk becomes a model and its tokenizer, through transformers.

For the engine worker alone: importing this module imports torch and transformers.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

# Read by huggingface_hub while it is imported: nothing is fetched while a model loads.
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from modules.errors import LoadFailedError

__all__ = ["LoadedModel", "Progress", "load"]

Progress = Callable[[str, float], None]
"""Called with a stage and the fraction of the whole that is done."""

_TOKENIZER_AT = 0.10
_WEIGHTS_AT = 0.25
_AGAIN = "Download the model again."


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in eval mode on its device, with the tokenizer that belongs to it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def load(
    folder: Path,
    progress: Progress,
    device: Literal["auto", "cpu"] = "auto",
    dtype: Literal["auto", "bfloat16"] = "auto",
) -> LoadedModel:
    """Load a checkpoint from safetensors, without the network and without code of its own.

    `device` and `dtype` mean what they mean in `LoadModel`. Raises LoadFailedError for
    whatever goes wrong, saying what it was and what would help.
    """
    transformers_logging.set_verbosity(logging.ERROR)
    place = "cuda" if device == "auto" and torch.cuda.is_available() else "cpu"
    progress("Reading the tokenizer", _TOKENIZER_AT)
    with _reported(f"The tokenizer of {folder.name} cannot be read", _AGAIN):
        tokenizer = _tokenizer(folder)
    progress("Reading the weights", _WEIGHTS_AT)
    _check_files(folder)
    with _reported(f"{folder.name} cannot be loaded", _AGAIN), _tensors_reported(progress):
        model = _model(folder, place, dtype)
    progress("Ready", 1.0)
    return LoadedModel(model, tokenizer)


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    names = ("tokenizer*", "vocab*", "*.model", "merges.txt", "tekken.json")
    if not any(path.name != "tokenizer_config.json" for n in names for path in folder.glob(n)):
        raise LoadFailedError(
            f"{folder.name} has no tokenizer.",
            "Put tokenizer.json beside the weights, or download the model again.",
        )
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    return tokenizer


def _check_files(folder: Path) -> None:
    """Name the damaged file, which the library's own message does not. Reads headers only."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise LoadFailedError(
                f"{path.name} is damaged or incomplete ({_sentence(error)}).", _AGAIN
            ) from error


def _model(folder: Path, device: str, dtype: str) -> PreTrainedModel:
    # The processor has no fast float16; float32 is what it computes best and most exactly.
    wanted = "bfloat16" if dtype == "bfloat16" else "auto" if device == "cuda" else "float32"
    from_pretrained: Any = AutoModelForCausalLM.from_pretrained
    model, report = from_pretrained(
        folder,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        dtype=wanted,
        output_loading_info=True,
    )
    missing = sorted(report["missing_keys"])
    if missing:
        # Left alone, transformers fills them with random numbers.
        raise LoadFailedError(
            f"The weights of {folder.name} lack {len(missing)} tensors, {missing[0]} among them.",
            "Download the model again, or check that config.json belongs to it.",
        )
    if device == "cuda" and model.dtype == torch.float32:
        model = model.to(torch.float16)
    model = model.to(device)
    model.requires_grad_(False)
    loaded: PreTrainedModel = model.eval()
    return loaded


@contextmanager
def _reported(what: str, remedy: str) -> Iterator[None]:
    """Turn what the libraries raise into a LoadFailedError with one sentence."""
    try:
        yield
    except LoadFailedError:
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise LoadFailedError(
            f"{what}: memory ran out.",
            "Choose a smaller model, or end other programs that use the memory.",
        ) from error
    except Exception as error:
        # Not narrower: tokenizers raises bare Exception.
        text = str(error)
        if "ignore_mismatched_sizes" in text:
            raise LoadFailedError(
                f"{what}: config.json does not fit the weights.", remedy
            ) from error
        if "does not recognize this architecture" in text:
            remedy = "Update transformers, or choose a model of another architecture."
        elif "memory" in text and "allocate" in text:
            remedy = "Choose a smaller model, or end other programs that use the memory."
        raise LoadFailedError(f"{what}: {_sentence(error)}.", remedy) from error


def _sentence(error: Exception) -> str:
    """The first line of an error with something in it, short enough for the page."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = next((line for line in lines if not line.endswith(":")), type(error).__name__)
    return text[:200].rstrip(". ")


@contextmanager
def _tensors_reported(progress: Progress) -> Iterator[None]:
    """Report each tensor as transformers takes it from the file."""

    def counted(_: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        items = list(args[0] if args else options.get("iterable", ()))
        return _counting(items, progress)

    previous = transformers_logging.set_tqdm_hook(counted)
    try:
        yield
    finally:
        transformers_logging.set_tqdm_hook(previous)


def _counting(items: list[Any], progress: Progress) -> Iterator[Any]:
    # A hundred reports are as good as ten thousand, and cost less.
    step = max(1, len(items) // 100)
    for done, item in enumerate(items):
        if done % step == 0:
            fraction = _WEIGHTS_AT + (1 - _WEIGHTS_AT) * done / len(items)
            progress("Reading the weights", fraction)
        yield item
