"""Rows of a draft as the trainer will see them, and what is wrong with them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modules.context import AppContext
from modules.errors import InvalidInputError
from modules.loader.catalog import find_model
from modules.training.config import TrainingConfig
from modules.training.config_yaml import from_mapping
from modules.training.preview import preview, survey
from modules.training.tokenizer import FileTokenizer
from modules.ui.training_sets import data_folders

__all__ = ["Previews"]


class Previews:
    """What the Data step asks for. Keeps the tokenizer that was used last; for any thread."""

    def __init__(self, ctx: AppContext) -> None:
        self._ctx = ctx
        self._guard = threading.Lock()
        self._kept: tuple[object, FileTokenizer] | None = None

    def row_json(self, entries: Mapping[str, Any], index: int) -> dict[str, Any]:
        """The row at `index`. Raises DatasetError, ModelError and others."""
        config, base = self._config(entries)
        found = preview(config, base, data_folders(self._ctx), index, self._tokenizer(base))
        return {
            "index": index,
            "total": found.total_rows,
            "more": not found.complete,
            "place": found.place,
            "tokens": found.tokens,
            "template": found.template,
            "note": f"It is left out: {found.left_out}" if found.left_out else "",
        }

    def survey_json(self, entries: Mapping[str, Any]) -> dict[str, Any]:
        """The lint of the first rows, and the share of real tokens by way of batching."""
        config, base = self._config(entries)
        found = survey(config, base, data_folders(self._ctx), self._tokenizer(base))
        looked = f"Looked at the first {found.looked_at:,} rows, which are not all."
        return {
            "examples": found.rows,
            "tokens": found.tokens,
            "learnt": found.learnt,
            "longest": found.longest,
            "truncated": found.lint.count("truncated") / found.rows if found.rows else 0.0,
            "sampled": "" if found.complete else looked,
            "shares": {mode: waste.share for mode, waste in found.waste.items()},
            "findings": [
                {"kind": one.kind, "count": one.count, "rows": one.rows}
                for one in found.lint.findings
            ],
        }

    def _config(self, entries: Mapping[str, Any]) -> tuple[TrainingConfig, Path]:
        config = from_mapping(entries)
        if not config.base:
            raise InvalidInputError("No base model is chosen.", "Choose one.", "base")
        return config, find_model(self._ctx.settings.model_dir, config.base)

    def _tokenizer(self, base: Path) -> FileTokenizer:
        """Reading one takes a fifth of a second, each time that somebody turns to another row."""
        with self._guard:
            key = _state(base)
            if self._kept is None or self._kept[0] != key:
                self._kept = key, FileTokenizer(base)
            return self._kept[1]


def _state(folder: Path) -> object:
    """What is another when any of the small files in a model's folder is."""
    files = sorted(folder.glob("*.json")) + sorted(folder.glob("*.jinja"))
    return folder, [(file.name, (s := file.stat()).st_mtime_ns, s.st_size) for file in files]
