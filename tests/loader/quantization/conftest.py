"""What the tests of quantized layers have in common."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.loader.quantization.stored import write_tokenizer


@pytest.fixture(scope="session")
def tokenizer_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `write_tokenizer`."""
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))
