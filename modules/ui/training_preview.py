"""Rows of a draft as the trainer will see them, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modules.context import AppContext
from modules.errors import InvalidInputError
from modules.loader.catalog import find_model
from modules.training.config import TrainingConfig
from modules.training.config_yaml import from_mapping
from modules.training.preview import SAMPLE, preview, survey
from modules.ui.training_sets import data_folders

__all__ = ["preview_json", "survey_json"]


def preview_json(ctx: AppContext, entries: Mapping[str, Any], index: int) -> dict[str, Any]:
    """The row at `index`, or the last one. Raises DatasetError, ModelError and others."""
    config, base = _config(ctx, entries)
    found = preview(config, base, data_folders(ctx), index)
    notes = [f"It is left out: {found.left_out}"] if found.left_out else []
    return {
        "index": index,
        "total": found.total_rows,
        "more": not found.complete,
        "place": found.place,
        "tokens": found.tokens,
        "template": found.template,
        "note": " ".join(notes),
    }


def survey_json(ctx: AppContext, entries: Mapping[str, Any]) -> dict[str, Any]:
    """The lint of the first rows, and the share of real tokens by way of batching."""
    config, base = _config(ctx, entries)
    found = survey(config, base, data_folders(ctx))
    return {
        "examples": found.rows,
        "tokens": found.tokens,
        "learnt": found.learnt,
        "longest": found.longest,
        "truncated": found.lint.count("truncated") / found.rows if found.rows else 0.0,
        "sampled": "" if found.complete else f"Looked at the first {SAMPLE:,} rows.",
        "shares": {mode: waste.share for mode, waste in found.waste.items()},
        "findings": [
            {"kind": one.kind, "count": one.count, "rows": one.rows} for one in found.lint.findings
        ],
    }


def _config(ctx: AppContext, entries: Mapping[str, Any]) -> tuple[TrainingConfig, Path]:
    config = from_mapping(entries)
    if not config.base:
        raise InvalidInputError("No base model is chosen.", "Choose one.", "base")
    return config, find_model(ctx.settings.model_dir, config.base)
