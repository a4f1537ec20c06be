"""How well a model, with a LoRA or merged, foretells some rows: what merging cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from modules.errors import DatasetError
from modules.training.config import TrainingConfig
from modules.training.masking import Masked
from modules.training.trainer.base import load_base
from modules.training.trainer.lora import continue_lora

__all__ = ["Compared", "compare", "perplexity"]

_MOST_TOKENS = {"cuda": 16_384, "cpu": 4_096}
"""Enough that two figures differ by what was done, and little enough to wait for."""


class Compared:
    """The perplexities of the same rows: the LoRA over its base, and merged."""

    def __init__(self, over_base: float, merged: float, rows: int) -> None:
        self.over_base, self.merged, self.rows = over_base, merged, rows

    @property
    def sentence(self) -> str:
        """For the terminal and the model card."""
        share = 100 * (self.merged / self.over_base - 1)
        return (
            f"Perplexity on {self.rows:,} rows: {self.over_base:.3f} with the LoRA over the "
            f"quantized base, {self.merged:.3f} merged ({share:+.2f} %)."
        )


def compare(base: Path, adapter: Path, merged: Path, rows: Sequence[Masked]) -> Compared:
    """Load one after the other. Raises ModelError, AdapterError, and DatasetError without rows."""
    chosen = _few(rows, _MOST_TOKENS[_device().type])
    config = TrainingConfig(dequantize="by layer")
    over = load_base(base, config, _device(), _silent)
    lora = continue_lora(over, config, adapter)
    lora.model.eval()
    inner = lora.model.get_base_model()
    assert isinstance(inner, PreTrainedModel)
    first = perplexity(inner, chosen)
    del over, lora, inner
    whole = load_base(merged, config, _device(), _silent)
    return Compared(first, perplexity(whole.model, chosen), len(chosen))


@torch.inference_mode()
def perplexity(model: PreTrainedModel, rows: Iterable[Masked]) -> float:
    """exp of the mean loss of the tokens that are learnt; the first of a row has none."""
    total, count = 0.0, 0
    for row in rows:
        ids = torch.tensor([row.ids], device=model.device)
        kept = torch.tensor(row.learnt[1:], device=model.device)
        with torch.autocast(model.device.type, model.dtype, enabled=model.dtype != torch.float32):
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
        losses = functional.cross_entropy(logits.float(), ids[0, 1:], reduction="none")
        total += float(losses[kept].double().sum())
        count += int(kept.sum())
    if not count:
        raise DatasetError("There is no row to compare on.", "Give a text with --text.")
    return math.exp(total / count)


def _few(rows: Sequence[Masked], most: int) -> list[Masked]:
    chosen: list[Masked] = []
    tokens = 0
    for row in rows:
        if len(row.ids) < 2:
            continue
        tokens += len(row.ids)
        if chosen and tokens > most:
            break
        chosen.append(row)
    return chosen


def _device() -> torch.device:
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def _silent(stage: str, fraction: float) -> None:
    pass
