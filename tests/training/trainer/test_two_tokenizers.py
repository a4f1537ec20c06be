"""Tokens as a run reads them, and as the chat does."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoTokenizer

from modules.training.masking import Masked
from modules.training.tokenizer import FileTokenizer
from modules.training.trainer.two_tokenizers import difference
from tests.training.bases import byte_level_base
from tests.training.trainer.runs import Place


def row(tokenizer: FileTokenizer, text: str) -> Masked:
    ids = tuple(tokenizer.encode(text)[0])
    return Masked(ids, (True,) * len(ids))


def test_a_chat_that_reads_text_otherwise_is_told_of_with_the_text(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
        byte_level_base(folder)
    file = str(theirs / "tokenizer.json")
    other = Tokenizer.from_file(file)
    letters = pre_tokenizers.Split("e", "removed")
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False)
    other.pre_tokenizer = pre_tokenizers.Sequence([letters, plain])
    other.save(file)
    mine, chat = FileTokenizer(ours), AutoTokenizer.from_pretrained(theirs)
    rows = [row(mine, "no sun"), row(mine, "seven days")]
    assert not difference(mine, AutoTokenizer.from_pretrained(ours), rows)
    assert not difference(mine, chat, rows[:1])
    assert "'seven days'" in difference(mine, chat, rows)


def test_a_run_over_a_sound_base_warns_of_no_difference(place: Place) -> None:
    place.steps(max_steps=1)
    assert not [told for told in place.warnings() if "other tokens" in told]
