"""What the tests of quantized layers have in common."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="session")
def tokenizer_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer that a checkpoint needs in order to load; nothing is encoded with it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    vocabulary = {"<unk>": 0} | {chr(33 + n): n + 1 for n in range(90)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    return folder
