"""docs/training.md has every option as it is."""

from __future__ import annotations

import runpy
from pathlib import Path

from modules.training.config import training_knobs

DOCS = Path(__file__).parents[2] / "docs"
DOCUMENT = (DOCS / "training.md").read_text("utf-8")


def test_the_document_has_the_options_of_the_code() -> None:
    made = runpy.run_path(str(DOCS / "options.py"))["tables"]()
    assert made in DOCUMENT, "run python docs/options.py"


def test_every_option_has_a_row_of_its_own() -> None:
    rows = [line.split("`")[1] for line in DOCUMENT.splitlines() if line.startswith("| `")]
    assert [row for row in rows if row in training_knobs()] == list(training_knobs())
