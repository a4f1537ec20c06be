"""What the tests of faults share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.engine.conftest import checkpoint, one_thread, roomy
from tests.faults.site import Site, site

__all__ = ["Found", "checkpoint", "found", "one_thread", "roomy", "running"]

Found = Callable[[str, str], None]


@pytest.fixture
def found(record_property: Callable[[str, object], None]) -> Found:
    """Tell what was tried, and what came of it: `docs/reliability.py` makes a table of that."""

    def tell(tried: str, outcome: str) -> None:
        record_property("tried", tried)
        record_property("outcome", outcome)

    return tell


@pytest.fixture(scope="session")
def running(roomy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A Lantern with --listen, whose model is a tiny one in a real worker."""
    with site(tmp_path_factory.mktemp("site"), roomy, listen=True) as running:
        yield running
