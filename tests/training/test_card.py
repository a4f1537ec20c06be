"""Model cards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from modules.training.card import adapter_card, curves_of, merged_card
from modules.training.events import Evaluated, EventLog
from tests.training.fake_run import started, step

MANIFEST: dict[str, Any] = {
    "base": "Tiny",
    "base_sha256": "abc123",
    "data": [{"name": "rows.jsonl", "rows": 1200, "sha256": "def456"}],
    "config": {"lora_r": 8, "learning_rate": 2e-4, "use_dora": True, "weight_decay": 0.0},
    "ancestry": [{"adapter": "earlier", "sha256": "789", "data": [{"name": "first.jsonl"}]}],
    "versions": {"torch": "2.0"},
}


def test_a_card_tells_base_data_settings_and_ancestry() -> None:
    card = adapter_card("style", MANIFEST)
    front = yaml.safe_load(card.split("---")[1])
    assert front == {"base_model": "Tiny", "library_name": "peft", "tags": ["lora"]}
    for told in ("| rows.jsonl | 1,200 | def456 |", "abc123", "| lora_r | 8 |", "`earlier`"):
        assert told in card
    assert "use_dora" in card and "weight_decay" not in card
    assert 'PeftModel.from_pretrained(base, "style")' in card


def test_a_card_shows_how_the_loss_fell(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    for event in (started(), *(step(n) for n in range(1, 9)), Evaluated(step=8, loss=0.25)):
        log.write(event)
    log.close()
    card = adapter_card("style", MANIFEST, curves_of(tmp_path), "9 of 10 prompts were answered.")
    assert "After 8 steps" in card and "0.2500, after step 8" in card
    assert "█" in card and "▁" in card
    assert "9 of 10 prompts" in card


def test_names_from_outside_change_nothing_of_its_form() -> None:
    hostile = 'x"\n---\nlicense: mit | `a` <script>'
    card = adapter_card("style", {**MANIFEST, "base": hostile, "data": [{"name": hostile}]})
    assert yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n"))["library_name"] == "peft"
    assert "<script>" not in card.split("## Data")[1]
    rows = [line for line in card.splitlines() if line.startswith("| x")]
    assert len(rows) == 1 and rows[0].replace("\\|", "").count("|") == 4


def test_a_card_of_what_nothing_is_known_of_is_short() -> None:
    card = adapter_card("style", {})
    assert "## Data" not in card and "## Settings" not in card


def test_the_card_of_a_merged_model_says_what_it_cost() -> None:
    card = merged_card("whole", {**MANIFEST, "adapter": "style"}, None, ["Perplexity: 5 to 6."])
    assert "`style` merged into its weights. Perplexity: 5 to 6." in card
    assert "library_name: transformers" in card
