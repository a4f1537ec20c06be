"""What a load refuses before it reads anything."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from modules.errors import LoadFailedError
from modules.loader.options import LoadOptions
from modules.loader.transformers_loader import load


def test_an_older_transformers_is_refused_by_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers, "__version__", "5.17.0")
    with pytest.raises(LoadFailedError, match=r"5\.17\.0.*requirements\.txt"):
        load(tmp_path, lambda *_: None, LoadOptions())


def test_the_least_version_is_that_of_the_requirements() -> None:
    wanted = (Path(__file__).parents[2] / "requirements.txt").read_text()
    (line,) = [line for line in wanted.splitlines() if line.startswith("transformers")]
    source = Path(load.__code__.co_filename).read_text()
    assert f'_LEAST_TRANSFORMERS = "{line.partition(">=")[2]}"' in source
